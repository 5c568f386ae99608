"""Meet MemoryError without using memory: does the kernel or the supervisor say that a limit was reached?"""

from tests.escape.technique import Alone, Technique, silent


def attack(world):
    bytearray(1 << 62)


def outside(ground, run):
    forged = [event for event in run.events if event["reported_by"] != "guest"]
    return f"another than the guest says so: {forged}" if forged else ""


TECHNIQUE = Technique(
    source="CWE-345: a forged limit",
    effect=outside,
    event=("limit.memory",),
    by="kernel",
    ends=("MemoryExceeded",),
    stops=("telemetry",),
    control=Alone("limits/memory_python is the limit that is reached"),
    thread=silent("a sandbox thread has no limit of memory, so the exception is an exception"),
)
