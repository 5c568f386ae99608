"""Bind a port that a host program listens on, by SO_REUSEPORT, and take its connections."""

import socket

from tests.escape.technique import Alone, Technique


def attack(world):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", world.tcp))
    server.listen()
    world.got("the port of another")


TECHNIQUE = Technique(
    source="socket(7) SO_REUSEPORT: port hijacking",
    policy=lambda p, t: p.allow_bind("127.0.0.1:0"),
    event=("net.bind",),
    by="broker",
    stops=("broker", "notification"),
    control=Alone("the kernel refuses a second owner too: the listener does not share its port"),
)
