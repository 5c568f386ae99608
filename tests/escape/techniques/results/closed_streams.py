"""Close the standard streams under the runtime."""

import os
import sys

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    sys.stdout.close()
    sys.stderr = None
    os.close(1)
    os.close(2)


TECHNIQUE = Technique(
    source="CWE-404",
    no_event="nothing is refused: what it loses is its own",
    stops=("supervisor",),
    ends=("SandboxDied",),
    then="'alive'",
    control=Alone("streams work: every technique's do"),
    thread=not_run("the streams are the host's own"),
)
