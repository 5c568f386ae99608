"""Starve a task that the listener puts a socket into, so that it waits and answers nobody."""

import ctypes
import hashlib
import struct
import threading
import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    mask = ctypes.create_string_buffer(struct.pack("Q", 1))

    def ask():
        world.libc.syscall(world.nr["sched_setaffinity"], 0, 8, mask)
        world.libc.sched_setscheduler(0, 5, struct.pack("i", 0))  # SCHED_IDLE
        while True:
            descriptor = world.libc.syscall(world.nr["socket"], 2, 1, 0)
            if descriptor >= 0:
                world.libc.close(descriptor)

    def spin():
        world.libc.syscall(world.nr["sched_setaffinity"], 0, 8, mask)
        while True:
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000)

    for _ in range(10):
        threading.Thread(target=spin, daemon=True).start()
    for _ in range(4):
        threading.Thread(target=ask, daemon=True).start()
    time.sleep(4)


TECHNIQUE = Technique(
    source="seccomp_unotify(2) SECCOMP_IOCTL_NOTIF_ADDFD: it returns when the task has run",
    policy=lambda p, t: p.allow_connect("127.0.0.1:9").allow_import("hashlib").with_limits(cpu="60s", processes=32),
    no_event="each call is granted",
    also=("fs.read",),
    sibling_s=1.0,
    stops=("notification",),
    control=Alone("what is measured is how long another sandbox waits"),
    thread=not_run("threads of the guest starve the host's own in any case"),
)
