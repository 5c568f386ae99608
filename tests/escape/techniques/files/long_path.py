"""Reach the secret by a path longer than PATH_MAX's worth of components that a broker may cut."""

import os

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    for path in (
        "/" * 3000 + world.secret.lstrip("/"),
        "/." * 1500 + world.secret,
        world.inbox + "/.." * 900 + world.secret,
    ):
        result, _ = world.attempt("openat", -100, os.fsencode(path), 0)
        if result >= 0:
            world.take(result)
        try:
            world.loot(open(path).read())
        except OSError:
            pass


TECHNIQUE = Technique(
    source="CWE-22; CVE-2021-3177 style path truncation; landlock documentation",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
