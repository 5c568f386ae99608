"""Overwrite a file outside through a symbolic link in a writable directory."""

import os

from tests.escape.grants import writable_outbox, write_outside
from tests.escape.technique import Granted, Technique


def attack(world):
    link = world.outbox + "/link"
    os.symlink(world.canary, link)
    with open(link, "w") as file:
        file.write("owned")


TECHNIQUE = Technique(
    source="CWE-59",
    policy=writable_outbox,
    event=("fs.write", "fs.create"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(write_outside),
)
