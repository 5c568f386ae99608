"""Be refused by the broker three thousand times, and be counted exactly."""

from tests.escape.technique import Alone, Technique


def attack(world):
    for _ in range(3000):
        try:
            open("/etc/shadow")
        except OSError:
            pass


def outside(ground, run):
    return "" if run.denials == 3000 else f"3000 refusals were counted as {run.denials}"


TECHNIQUE = Technique(
    source="a flood of refusals: counters are exact",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("the count itself is the control"),
)
