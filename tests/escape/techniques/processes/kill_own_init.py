"""End oneself in every way there is."""

import os
import signal

from tests.escape.technique import Alone, Technique, escapes


def attack(world):
    for number in (signal.SIGKILL, signal.SIGSEGV):
        try:
            os.kill(os.getpid(), number)
        except OSError as error:
            print(error)
    world.libc.abort()


TECHNIQUE = Technique(
    source="signal(7)",
    no_event="nothing is refused: a guest may end itself",
    stops=("supervisor",),
    must_end=("SandboxDied",),
    control=Alone("the effect would be on the supervisor, which says SandboxDied"),
    thread=escapes("the process dies, and with it the supervisor"),
)
