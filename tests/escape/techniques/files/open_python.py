"""Open the secret the ordinary way."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    world.loot(open(world.secret).read())


TECHNIQUE = Technique(
    source="man 2 open",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
