"""Connect to the granted port of another address of the same machine."""

from tests.escape.grants import connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    for host in ((127, 0, 0, 2), (0, 0, 0, 0), (127, 1, 1, 1)):
        descriptor = world.socket_raw(2, 1)
        address = world.ipv4(world.tcp, host)
        world.attempt("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="RFC 1122: 0.0.0.0 is this host; SSRF filters",
    policy=lambda p, t: p.allow_connect(f"127.0.0.3:{t.tcp}"),
    event=("net.connect",),
    by="kernel",
    syscall="connect",
    stops=("notification",),
    control=Granted(connect_tcp),
)
