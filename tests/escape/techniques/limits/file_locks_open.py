"""Lock a file byte by byte for its open file, where no process's table shows the locks."""

import struct

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    file = world.open_raw(world.granted)
    made = 0
    for byte in range(0, 20_000, 2):
        lock = struct.pack("hhqqi4x", 0, 0, 20_000 - byte, 1, 0)
        made += world.libc.syscall(world.nr["fcntl"], file, 37, lock) == 0
    if made:
        world.got(f"{made} locks")


TECHNIQUE = Technique(
    source="fcntl(2) F_OFD_SETLK: an open file that is only mapped, or in flight, keeps its locks",
    event=("limit.memory",),
    stops=("notification", "limits"),
    control=Bare(),
    thread=not_run("the locks of a thread are the host's"),
)
