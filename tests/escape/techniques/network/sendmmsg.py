"""Hide a datagram to elsewhere behind a granted one, in one sendmmsg."""

import ctypes
import struct

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    data = ctypes.create_string_buffer(b"loot")
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 4))
    addresses = [ctypes.create_string_buffer(world.ipv4(port)) for port in (9, world.udp)]
    heads = b"".join(
        struct.pack("=QI4xQQQQi4xI4x", ctypes.addressof(address), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0)
        for address in addresses
    )
    for start in (0, 64):  # a listener may serve one at a time
        world.attempt("sendmmsg", descriptor, ctypes.create_string_buffer(heads[start:]), (128 - start) // 64, 0)


TECHNIQUE = Technique(
    source="sendmmsg(2): forgotten beside sendmsg",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendmmsg",
    stops=("notification",),
    control=Granted(send_udp),
)
