"""Leave the session, so that a terminal's signals do not come."""

import os

from tests.escape.technique import Alone, InThread, Technique


def attack(world):
    try:
        os.setsid()
    except OSError as error:
        print(error)


TECHNIQUE = Technique(
    source="setsid(2)",
    no_event="it is granted: the supervisor ends cells by pidfd, not by group",
    stops=("namespaces", "supervisor"),
    control=Alone("there is nothing to gain: the judge counts what is left of the cell's namespace"),
    thread=InThread("stopped"),
)
