"""Keep using a directory that was deleted, then plant a file through it."""

import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import Alone, Technique, silent


def attack(world):
    gone = world.outbox + "/gone"
    os.mkdir(gone)
    directory = world.open_raw(gone, os.O_DIRECTORY)
    os.rmdir(gone)
    result, _ = world.attempt("openat", directory, b"../../outside/planted", os.O_CREAT | os.O_WRONLY, 0o644)
    result, _ = world.attempt("openat", directory, b"../../vault/secret", 0)
    if result >= 0:
        world.take(result)


TECHNIQUE = Technique(
    source="landlock/fs_test.c (disconnected directories)",
    policy=writable_outbox,
    event=("fs.create",),
    stops=("root view", "landlock"),
    control=Alone("a lookup from a deleted directory fails on any kernel; the check is that nothing else happens"),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
