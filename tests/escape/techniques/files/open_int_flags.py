"""Open the secret with os.open and O_RDWR|O_APPEND, a mode no library function uses."""

import os

from tests.escape.technique import Granted, Technique


def attack(world):
    world.take(os.open(world.secret, os.O_RDWR | os.O_APPEND))


TECHNIQUE = Technique(
    source="man 2 open",
    event=("fs.read", "fs.write"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(lambda p, t: p.allow_read(t.secret).allow_write(t.secret)),
)
