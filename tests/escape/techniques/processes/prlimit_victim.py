"""Take away another process's right to open files."""

import struct

from tests.escape.technique import Alone, Technique


def attack(world):
    world.syscall("prlimit64", world.victim, 7, struct.pack("=QQ", 3, 1024 * 1024), None)


TECHNIQUE = Technique(
    source="prlimit(2); Landlock allows it on the parent (facts)",
    event=("process.trace",),
    by="kernel",
    syscall="prlimit64",
    stops=("seccomp", "namespaces"),
    control=Alone("lowering the soft limit alone needs the victim's own hard limit; see processes/prlimit_read"),
)
