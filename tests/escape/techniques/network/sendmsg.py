"""Send a datagram by sendmsg."""

import ctypes
import struct

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    address = ctypes.create_string_buffer(world.ipv4(world.udp))
    data = ctypes.create_string_buffer(b"loot")
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 4))
    head = struct.pack("=QI4xQQQQi4x", ctypes.addressof(address), 16, ctypes.addressof(vector), 1, 0, 0, 0)
    world.syscall("sendmsg", descriptor, head, 0)


TECHNIQUE = Technique(
    source="sendmsg(2): the address is behind two pointers",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendmsg",
    stops=("notification",),
    control=Granted(send_udp),
)
