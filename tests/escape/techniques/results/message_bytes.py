"""Post so many bytes that the host runs out of memory, in few messages."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    block = b"x" * (15 << 20)
    for _ in range(24):
        post(block)


def outside(ground, run):
    lines = open(f"/proc/{ground.targets.supervisor}/status").read().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10
    return f"the supervisor's memory rose to {peak} MiB" if peak > 300 else ""


TECHNIQUE = Technique(
    source="CWE-770: a bound on messages is no bound on bytes",
    effect=outside,
    event=("limit.messages", "limit.output", "limit.memory"),
    stops=("limits", "supervisor"),
    ends=("MessagesExceeded", "OutputExceeded", "MemoryExceeded"),
    control=Alone("one such message arrives"),
    thread=not_run("objects are shared as they are"),
)
