"""Pass a granted socket to oneself and connect the copy elsewhere."""

import socket

from tests.escape.grants import another_port, send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 2)
    one, two = socket.socketpair()
    granted = world.ipv4(9)
    world.attempt("connect", descriptor, granted, len(granted))
    socket.send_fds(one, [b"."], [descriptor])
    _, copies, _, _ = socket.recv_fds(two, 1, 1)
    other = world.ipv4(world.udp)
    world.attempt("connect", copies[0], other, len(other))
    world.libc.write(copies[0], b"loot", 4)


TECHNIQUE = Technique(
    source="unix(7) SCM_RIGHTS; docs/native.md: sockets live in the host's namespace",
    policy=another_port,
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(send_udp),
)
