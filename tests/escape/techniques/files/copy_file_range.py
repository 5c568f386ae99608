"""Copy over a file outside without write(2): copy_file_range, sendfile, splice."""

import os

from tests.escape.grants import write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    source, target = world.open_raw(world.granted), world.open_raw(world.canary, os.O_WRONLY)
    world.syscall("copy_file_range", source, None, target, None, 8, 0)


TECHNIQUE = Technique(
    source="copy_file_range(2); CVE-2023-20588 style review of write paths",
    event=("fs.write",),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
