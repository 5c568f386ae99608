"""Rename a directory out of the reach of its mount while holding it, then climb."""

import os

from tests.escape.grants import read_secret, writable_outbox
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    os.makedirs(world.outbox + "/a/b")
    directory = world.open_raw(world.outbox + "/a/b", os.O_DIRECTORY)
    os.rename(world.outbox + "/a/b", world.outbox + "/b")
    for climb in (b"../vault/secret", b"../../vault/secret", b"../../../vault/secret"):
        result, _ = world.attempt("openat", directory, climb, 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="CVE-2015-2925 (rename out of a bind mount); landlock/fs_test.c (layout5_disconnected)",
    policy=writable_outbox,
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
