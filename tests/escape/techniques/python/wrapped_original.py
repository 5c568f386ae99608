"""Take a wrapper's original from its closure, and make a pipe outside with it."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    for function in (os.mkfifo, os.mknod):
        candidates = [getattr(function, "__wrapped__", None)]
        candidates += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        for candidate in candidates:
            if callable(candidate):
                try:
                    candidate(world.outside + "/pipe")
                except (OSError, TypeError):
                    pass
    os.mkfifo(world.outside + "/pipe2")


TECHNIQUE = Technique(
    source="pyjail collections: __wrapped__, __closure__, cell_contents",
    event=("fs.create",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("wrappers are a cell's only; Landlock refuses, and leaves no record"),
)
