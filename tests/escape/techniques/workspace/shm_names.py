"""Leave shared memory under a name of the host's, with shm_open."""

import ctypes
import os

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, OWN_FILE, Bare, Technique


def attack(world):
    for name in (b"/escape-shared", b"escape-shared2"):
        world.libc.shm_open(name, os.O_CREAT | os.O_RDWR, ctypes.c_uint(0o666))


TECHNIQUE = Technique(
    source="shm_overview(7)",
    policy=workspace,
    no_event=OWN_FILE,
    stops=("root view",),
    control=Bare(),
    thread=NO_WORKSPACE,
)
