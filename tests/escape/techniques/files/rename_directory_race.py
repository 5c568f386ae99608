"""Exchange a directory with a link to one outside while a file below it is being made."""

import ctypes
import os
import sys
import threading
import time

from tests.escape.grants import writable_outbox, write_outside
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    real, link = os.fsencode(world.outbox + "/d"), os.fsencode(world.outbox + "/l")
    os.mkdir(real)
    os.symlink(world.outside, link)
    begin, met, done = time.monotonic(), False, False
    sys.setswitchinterval(1e-5)

    def swap():
        while not done:
            world.libc.syscall(ctypes.c_long(world.nr["renameat2"]), -100, real, -100, link, 2)

    thread = threading.Thread(target=swap)
    thread.start()
    # where one processor serves both threads, the race is seldom won
    while time.monotonic() < begin + (0.2 if met else 2):
        try:
            os.close(os.open(real + b"/raced", os.O_CREAT | os.O_WRONLY))
        except PermissionError:
            met = True
        except OSError:
            pass  # the link came after the broker had looked: there is nothing outside
        met = met or os.path.exists(world.outside + "/raced")
    done = True
    thread.join()


TECHNIQUE = Technique(
    source="CWE-367; tar and archive extraction races",
    policy=writable_outbox,
    event=("fs.create", "fs.write"),
    stops=("root view", "landlock"),
    control=Granted(write_outside),
    thread=silent(
        "if the link always came after the broker's look, Landlock alone refused, and a caught error is not seen"
    ),
)
