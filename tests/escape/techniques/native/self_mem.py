"""Patch one's own code through /proc/self/mem, which ignores protections."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    start, _end, _path = [found for found in world.executable_ranges() if b"libc.so" in found[2]][0]
    descriptor = world.open_raw("/proc/self/mem", 2)
    data = os.pread(descriptor, 16, start)
    os.pwrite(descriptor, data, start)
    world.got("code was written")


TECHNIQUE = Technique(
    source="proc(5) /proc/self/mem: FOLL_FORCE",
    event=("fs.write",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
