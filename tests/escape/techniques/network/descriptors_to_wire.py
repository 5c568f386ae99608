"""Send descriptors to the host over the wire, to be used or leaked there."""

import os
import socket

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    channel = socket.socket(fileno=os.dup(world.wire()))
    before = os.open(world.granted, os.O_RDONLY)
    socket.send_fds(channel, [world.frame("message", encoded=b"\xc0")], [before] * 20)


TECHNIQUE = Technique(
    source="unix(7) SCM_RIGHTS: descriptor exhaustion of the receiver",
    no_event="sending on a socket pair is granted; the host takes the bytes without the descriptors",
    stops=("wire",),
    control=Alone("the host receives without room for descriptors: tests/unit/test_wire.py"),
    thread=not_run(NO_WIRE),
)
