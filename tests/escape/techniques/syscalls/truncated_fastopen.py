"""Send with an address by fast open, with bits above the flags."""

from tests.escape.grants import another_port, connect_tcp
from tests.escape.technique import Granted, Technique


def attack(world):
    descriptor = world.socket_raw(2, 1)
    address = world.ipv4(world.tcp)
    for flags in (0x20000000, 0x20000000 | (1 << 32), (1 << 32)):
        world.attempt("sendto", descriptor, b"loot", 4, flags, address, len(address))


TECHNIQUE = Technique(
    source="send(2): MSG_FASTOPEN connects and sends in one call",
    policy=another_port,
    event=("net.connect", "net.send"),
    by="kernel",
    syscall="sendto",
    stops=("notification",),
    control=Granted(connect_tcp),
)
