"""Set socket options that reach beyond the socket: filters, devices, marks, transparent, repair, multicast."""

import ctypes
import struct

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    value = struct.pack("=i", 1)
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFF))
    attach = struct.pack("=H6xQ", 1, ctypes.addressof(program))
    for level, option, data in (
        (1, 26, attach),
        (1, 25, b"lo\0"),
        (1, 36, value),
        (0, 19, value),
        (6, 19, value),
        (0, 35, bytes([224, 0, 0, 1, 0, 0, 0, 0])),
        (6, 31, b"tls\0"),
        (1, 50, value),
        (1, 33, value),
        (1, 32, value),
    ):
        result, _ = world.attempt("setsockopt", descriptor, level, option, data, len(data))
        if result == 0:
            world.got(f"option {level}/{option}")


TECHNIQUE = Technique(
    source="socket(7), ip(7), tcp(7); CVE-2017-1000112, CVE-2023-0461 (TCP_ULP)",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="setsockopt",
    stops=("seccomp",),
    control=Bare(),
)
