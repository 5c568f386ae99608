"""Confuse the broker with bytes, NUL, trailing slashes and undecodable names."""

import os

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    raw = os.fsencode(world.secret)
    for path in (
        raw,
        raw + b"/",
        raw + b"\0.txt",
        raw.replace(b"secret", b"./secret"),
        b"//" + raw,
        raw + b"\xff/../secret",
    ):
        try:
            world.loot(open(path).read())
        except (OSError, ValueError):
            pass


TECHNIQUE = Technique(
    source="CWE-158, CWE-176; pyjail collections: path confusion",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
