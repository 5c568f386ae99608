"""Connect to a granted socket's name relative to another directory, where another socket lies."""

import os

from tests.escape.grants import another_port, writable_outbox
from tests.escape.technique import Bare, Technique


def attack(world):
    decoy = world.outbox + "/stream"
    address = world.unix("stream")
    server = world.socket_raw(1, 1)
    mine = world.unix(decoy)
    world.attempt("bind", server, mine, len(mine))
    world.attempt("chdir", os.fsencode(world.base + "/socket"))
    descriptor = world.socket_raw(1, 1)
    world.attempt("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="unix(7): relative names are resolved by whoever connects",
    policy=lambda p, t: writable_outbox(another_port(p, t), t),
    event=("net.connect", "ipc.unix", "net.socket", "net.bind"),
    by="kernel",
    stops=("notification", "root view"),
    control=Bare(),
)
