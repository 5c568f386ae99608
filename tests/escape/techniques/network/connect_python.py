"""Connect to a listener the ordinary way."""

import socket

from tests.escape.grants import connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    socket.create_connection(("127.0.0.1", world.tcp), timeout=3).sendall(b"loot")


TECHNIQUE = Technique(
    source="man 2 connect",
    event=("net.connect", "net.socket"),
    by="broker",
    stops=("broker", "notification", "namespaces"),
    control=Granted(connect_tcp),
)
