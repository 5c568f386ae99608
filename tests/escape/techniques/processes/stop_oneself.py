"""Stop oneself, so that the supervisor waits."""

import os
import signal

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    os.kill(os.getpid(), signal.SIGSTOP)
    world.attempt("tgkill", os.getpid(), os.getpid(), 19)


TECHNIQUE = Technique(
    source="signal(7): an init is not stopped by its own namespace",
    no_event="it is granted, and without effect on an init",
    stops=("namespaces", "limits"),
    ends=("TimeoutError",),
    control=Alone("it would stop the test"),
    thread=not_run("it would stop the whole host"),
)
