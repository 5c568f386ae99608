"""Leave processes behind that ignore every signal."""

import os
import signal
import time

from tests.escape.grants import fork
from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for _ in range(5):
        if world.fork() == 0:
            os.setsid()
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            time.sleep(60)


TECHNIQUE = Technique(
    source="signal(7): SIGKILL cannot be ignored",
    policy=fork,
    no_event="forking is granted; the cell is its pid namespace's init, and its end is theirs",
    stops=("namespaces", "limits"),
    control=Alone("a process outside would stay for a minute"),
    thread=not_run("the process would stay behind for a minute"),
)
