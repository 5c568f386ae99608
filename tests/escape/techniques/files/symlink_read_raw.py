"""Read the secret through a symbolic link, by raw system calls only."""

import os

from tests.escape.grants import read_secret, writable_outbox
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    link = os.fsencode(world.outbox + "/link")
    world.syscall("symlinkat", os.fsencode(world.secret), -100, link)
    world.take(world.open_raw(link))


TECHNIQUE = Technique(
    source="CWE-61",
    policy=writable_outbox,
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
