"""List the host's interfaces and addresses by ioctl."""

import ctypes
import struct

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    import socket

    descriptor = world.socket_raw(2, 2)
    buffer = ctypes.create_string_buffer(4096)
    request = struct.pack("=i4xQ", 4096, ctypes.addressof(buffer))
    result, _ = world.attempt("ioctl", descriptor, 0x8912, ctypes.create_string_buffer(request))
    names = [name for _, name in socket.if_nameindex()] if result == 0 else []
    if result == 0:
        world.got(f"interfaces: {buffer.raw[:16]} {names}")


TECHNIQUE = Technique(
    source="netdevice(7) SIOCGIFCONF",
    policy=another_port,
    event=("kernel.ioctl",),
    by="kernel",
    syscall="ioctl",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
