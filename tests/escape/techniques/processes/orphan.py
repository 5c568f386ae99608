"""Leave a process behind: double fork, new session, standard streams closed."""

import os
import time

from tests.escape.grants import fork
from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    child = world.fork()
    if child == 0:
        os.setsid()
        if world.fork() == 0:
            for descriptor in range(0, 64):
                world.libc.close(descriptor)
            time.sleep(60)
        world.libc._exit(0)
    os.waitpid(child, 0)


TECHNIQUE = Technique(
    source="daemon(7); a container's init must reap and end all",
    policy=fork,
    no_event="forking is granted; the cell is its pid namespace's init, and its end is theirs",
    stops=("namespaces", "limits"),
    control=Alone("a process outside would stay for a minute; the judge counts what is left of the cell's namespace"),
    thread=not_run("the process would stay behind for a minute"),
)
