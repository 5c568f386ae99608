"""Print what is no text: half characters, control codes, a million NULs."""

import os

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    os.write(1, b"\xff\xfe\xf0\x9f\x92" + b"\0" * 100000 + b"\x1b]0;owned\x07")
    os.write(2, b"\xc3")


TECHNIQUE = Technique(
    source="CWE-176",
    no_event="nothing is refused: output is decoded with escapes",
    stops=("supervisor",),
    then="'alive'",
    control=Alone("text arrives: every technique's does"),
    thread=not_run("it would write to the host's own output"),
)
