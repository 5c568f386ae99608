"""Stop oneself, so that the supervisor waits."""

import os
import signal

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    os.kill(os.getpid(), signal.SIGSTOP)
    world.attempt("tgkill", os.getpid(), os.getpid(), 19)


TECHNIQUE = Technique(
    source="signal(7)",
    event=("limit.wall",),
    by="kernel",
    stops=("limits",),
    must_end=("TimeoutError",),
    control=Alone("it would stop the test"),
    thread=not_run("it would stop the whole host"),
)
