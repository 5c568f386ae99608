"""Make a child process by clone3, whose flags a filter cannot read."""

import os
import struct

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    arguments = struct.pack("=8Q", 0, 0, 0, 0, 17, 0, 0, 0)
    result, _ = world.attempt("clone3", arguments, len(arguments))
    if result == 0:
        world.libc._exit(0)
    if result > 0:
        os.waitpid(result, 0)
        world.got("a child")


TECHNIQUE = Technique(
    source="clone3(2); Docker's seccomp profile and ENOSYS",
    event=("process.fork",),
    stops=("seccomp",),
    control=Bare(),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
