"""Send to an abstract socket through a socket pair's end."""

import socket
import struct

from tests.escape.technique import Bare, Technique


def attack(world):
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = struct.pack("=H", 1) + b"\0" + world.abstract.encode()
    world.attempt("connect", one.fileno(), address, len(address))
    path = world.unix(world.datagram)
    world.syscall("sendto", two.fileno(), b"loot", 4, 0, path, len(path))


TECHNIQUE = Technique(
    source="unix(7): a pair's end may be connected anew",
    event=("net.connect", "net.send", "ipc.unix", "net.socket"),
    by="kernel",
    stops=("notification", "namespaces", "root view"),
    control=Bare(),
)
