"""Make a child process by fork."""

import os

from tests.escape.grants import fork
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    world.got("a child")


TECHNIQUE = Technique(
    source="man 2 fork",
    event=("process.fork",),
    by="broker",
    stops=("broker", "notification"),
    control=Granted(fork),
    thread=not_run("its control is process isolation's; see exec/clone_raw"),
)
