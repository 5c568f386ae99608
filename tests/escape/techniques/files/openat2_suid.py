"""Make a set-user-id file with openat2, whose mode a filter cannot read."""

import os
import stat
import struct

from tests.escape.grants import writable_outbox
from tests.escape.technique import Bare, Technique, silent


def attack(world):
    path = world.outbox + "/suid"
    how = struct.pack("=QQQ", os.O_CREAT | os.O_WRONLY, 0o6755, 0)
    world.attempt("openat2", -100, os.fsencode(path), how, len(how))
    if os.stat(path).st_mode & stat.S_ISUID:
        world.got("a set-user-id file")


TECHNIQUE = Technique(
    source="man 2 openat2; seccomp(2): pointers are not seen",
    policy=writable_outbox,
    event=("fs.create",),
    stops=("seccomp",),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
