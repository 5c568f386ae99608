"""Lock a file that is granted for reading, against whoever locks it outside."""

import fcntl

from tests.escape.technique import Bare, Technique, escapes


def attack(world):
    with open(world.granted) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        import time

        time.sleep(0.05)
        world.got("an exclusive lock")


TECHNIQUE = Technique(
    source="flock(2): an exclusive lock needs no right to write",
    no_event="flock is granted with reading",
    stops=("landlock",),
    control=Bare(),
    gap="flock is granted with reading; a host that locks files with flock(2) must not grant them",
    thread=escapes("flock is granted with reading"),
)
