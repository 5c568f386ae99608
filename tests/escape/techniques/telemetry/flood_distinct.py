"""Be refused two thousand different things, then hide one among them."""

from tests.escape.technique import Alone, Technique


def attack(world):
    for number in range(2000):
        try:
            open(f"/noise/{number}")
        except OSError:
            pass
    try:
        open(world.secret)
    except OSError:
        pass


def outside(ground, run):
    return "" if run.denials == 2001 else f"2001 refusals were counted as {run.denials}"


TECHNIQUE = Technique(
    source="flood to push out an event",
    effect=outside,
    event=("fs.read",),
    by="broker",
    stops=("telemetry",),
    control=Alone("the count itself is the control"),
)
