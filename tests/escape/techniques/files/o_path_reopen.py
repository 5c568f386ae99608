"""Hold a file by O_PATH, then reopen it through /proc/self/fd for writing."""

import os

from tests.escape.technique import ABSENT, Bare, Technique


def attack(world):
    descriptor = world.open_raw(world.granted, 0o10000000)
    for way in ("/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/"):
        result, _ = world.attempt("openat", -100, os.fsencode(way + str(descriptor)), os.O_RDWR)
        if result >= 0:
            os.write(result, b"owned")


TECHNIQUE = Technique(
    source="open(2) O_PATH; CVE-2019-5736; landlock/fs_test.c (proc)",
    no_event=ABSENT,
    stops=("root view", "landlock"),
    control=Bare(),
)
