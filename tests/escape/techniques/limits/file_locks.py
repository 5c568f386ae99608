"""Lock a file byte by byte: record locks are memory of the kernel's that no group is charged for."""

import struct

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    file = world.open_raw(world.granted)
    made = 0
    for byte in range(0, 20_000, 2):
        lock = struct.pack("hhqqi4x", 0, 0, 20_000 - byte, 1, 0)  # before the last: found at once
        made += world.libc.syscall(world.nr["fcntl"], file, 6, lock) == 0
    if made > 3000:
        world.got(f"{made} locks")


TECHNIQUE = Technique(
    source="fcntl(2) F_SETLK; RLIMIT_LOCKS is gone since Linux 2.4.25",
    event=("limit.memory",),
    stops=("notification", "limits"),
    control=Bare(),
    thread=not_run("the locks of a thread are the host's"),
)
