"""Do it in a trace function, inside the runtime's own frames."""

import sys

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    def trace(frame, event, argument):
        sys.settrace(None)
        world.loot(open(world.secret).read())

    sys.settrace(trace)
    (lambda: None)()
    sys.settrace(None)


TECHNIQUE = Technique(
    source="sys.settrace; pyjail collections",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
