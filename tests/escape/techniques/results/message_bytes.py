"""Post so many bytes that the host runs out of memory, in few messages."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    block = b"x" * (15 << 20)
    for _ in range(24):
        post(block)


def outside(ground, run):
    grew = run.host["grew_mib"]
    return f"the supervisor's memory grew by {grew} MiB" if grew > 200 else ""


TECHNIQUE = Technique(
    source="CWE-770: a bound on messages is no bound on bytes",
    effect=outside,
    event=("limit.messages", "limit.output", "limit.memory"),
    stops=("limits", "supervisor"),
    ends=("MessagesExceeded", "OutputExceeded", "MemoryExceeded"),
    control=Alone("one such message arrives"),
    thread=not_run("objects are shared as they are"),
)
