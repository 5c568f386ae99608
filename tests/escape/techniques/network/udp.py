"""Send a datagram."""

import socket

from tests.escape.grants import send_udp
from tests.escape.technique import Granted, Technique


def attack(world):
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"loot", ("127.0.0.1", world.udp))


TECHNIQUE = Technique(
    source="Landlock allows UDP (facts)",
    event=("net.send", "net.socket", "net.connect"),
    by="broker",
    stops=("broker", "notification", "namespaces"),
    control=Granted(send_udp),
)
