"""Send a posted object while a request runs: it is granted, and must harm nobody."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    world.send(world.frame("message", encoded=world.pack("late")))


def outside(ground, run):
    return "" if "alive" in run.then_text else f"the next request ended with {run.then_error}"


TECHNIQUE = Technique(
    source="CWE-20, CWE-841: every frame type in every state, whole and malformed",
    no_event="nothing is refused: a guest may post at any time",
    effect=outside,
    then='import time; time.sleep(0.2); "alive"',
    stops=("wire",),
    control=Alone("it is what posting and reporting do"),
    thread=not_run(NO_WIRE),
)
