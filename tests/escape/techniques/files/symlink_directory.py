"""Reach a file outside through a symbolic link to a directory half way."""

import os

from tests.escape.grants import read_secret, writable_outbox
from tests.escape.technique import Granted, Technique


def attack(world):
    os.symlink(os.path.dirname(world.secret), world.outbox + "/up")
    world.loot(open(world.outbox + "/up/secret").read())


TECHNIQUE = Technique(
    source="CWE-22; tarfile CVE-2007-4559",
    policy=writable_outbox,
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
