"""Map a file of one's own executable, and write the code through the file."""

import ctypes
import os

from tests.escape.grants import writable_outbox
from tests.escape.technique import NO_ROOT_VIEW, Bare, Technique, escapes


def attack(world):
    path = os.fsencode(world.outbox + "/code")
    descriptor = world.open_raw(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes.fromhex("b82a000000c3").ljust(4096, b"\0"))
    for flags in (1, 2):
        address, error = world.attempt("mmap", 0, 4096, 5, flags, descriptor, 0)
        if not error and ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42:
            world.got("machine code ran")


TECHNIQUE = Technique(
    source="mmap(2); Landlock does not refuse mapping a readable file executable",
    policy=writable_outbox,
    event=("import.native",),
    stops=("root view",),
    control=Bare(),
    thread=escapes(NO_ROOT_VIEW),
)
