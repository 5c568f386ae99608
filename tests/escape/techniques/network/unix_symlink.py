"""Connect to a host program's socket through a link in a writable directory."""

import os

from tests.escape.grants import another_port, writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    link = world.outbox + "/s"
    os.symlink(world.stream, link)
    descriptor = world.socket_raw(1, 1)
    address = world.unix(link)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="unix(7); CWE-59",
    policy=lambda p, t: writable_outbox(another_port(p, t), t),
    event=("net.connect", "ipc.unix", "net.socket"),
    by="kernel",
    stops=("notification", "root view"),
    control=Bare(),
)
