"""Disturb the listener: interrupt notified calls with signals while it decides."""

import signal
import time

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    address, stop = world.ipv4(world.tcp), time.monotonic() + 0.25 * world.slowness
    count = 0
    while time.monotonic() < stop:
        descriptor = world.libc.socket(2, 1, 0)
        world.libc.connect(descriptor, address, len(address))
        world.libc.close(descriptor)
        count += 1
    signal.setitimer(signal.ITIMER_REAL, 0, 0)
    print(count, "connects")


TECHNIQUE = Technique(
    source="seccomp_unotify(2): interrupted notifications; CVE-2020-16120 class",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
    thread=not_run(
        "timers that raise a signal in the whole process are refused in a thread, and handlers are the main thread's"
    ),
)
