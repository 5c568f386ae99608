"""Mount over the workspace, take it away, and make what is written there run."""

import ctypes
import os
import struct

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Bare, Technique


def attack(world):
    own = os.fsencode(world.own)
    runs = ctypes.create_string_buffer(struct.pack("=QQQQ", 0, 8, 0, 0))
    for call in (
        ("mount", b"none", own, b"tmpfs", 0, None),
        ("mount", os.fsencode(os.path.dirname(world.secret)), own, None, 4096, None),
        ("mount", None, own, None, 32 | 4096, None),
        ("mount", None, own, None, 32, b"size=1g"),
        ("mount_setattr", -100, own, 0, runs, 32),
        ("umount2", own, 2),
        ("pivot_root", own, own),
    ):
        result, _ = world.attempt(*call)
        if result >= 0:
            world.got(call[0])


TECHNIQUE = Technique(
    source="mount(2), MS_REMOUNT; mount_setattr(2); umount(2)",
    policy=workspace,
    event=("kernel.mount",),
    by="kernel",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
    thread=NO_WORKSPACE,
)
