"""Connect to a host program's socket the ordinary way."""

import socket

from tests.escape.technique import Bare, Technique


def attack(world):
    socket.socket(socket.AF_UNIX).connect(world.stream)


TECHNIQUE = Technique(
    source="unix(7); docker.sock escapes",
    event=("net.connect", "ipc.unix", "net.socket"),
    by="broker",
    stops=("broker", "notification", "root view"),
    control=Bare(),
)
