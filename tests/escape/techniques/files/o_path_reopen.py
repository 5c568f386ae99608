"""Hold a file by O_PATH, then reopen it through /proc/self/fd for writing."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    descriptor = world.open_raw(world.granted, 0o10000000)
    for way in ("/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/"):
        result, _ = world.attempt("openat", -100, os.fsencode(way + str(descriptor)), os.O_RDWR)
        if result >= 0:
            os.write(result, b"owned")


TECHNIQUE = Technique(
    source="open(2) O_PATH; CVE-2019-5736; landlock/fs_test.c (proc)",
    event=("fs.write",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
