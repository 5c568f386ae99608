"""Raise MemoryError by oneself: is a limit said to be reached that was not?"""

from tests.escape.technique import Alone, Technique


def attack(world):
    raise MemoryError


def outside(ground, run):
    return f"a limit is said to be reached: {run.error_text[:120]}" if run.error == "MemoryExceeded" else ""


TECHNIQUE = Technique(
    source="issue 5: forge",
    effect=outside,
    no_event="nothing is refused",
    ends=("MemoryExceeded",),
    stops=("telemetry",),
    control=Alone("limits/memory_python is the limit that is reached"),
)
