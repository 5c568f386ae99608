"""Climb out of a granted directory with dots."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    world.loot(open(world.inbox + "/../vault/secret").read())


TECHNIQUE = Technique(
    source="CWE-22",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
