"""Send a datagram to a host program's socket by its path."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(1, 2)
    address = world.unix(world.datagram)
    world.syscall("sendto", descriptor, b"loot", 4, 0, address, len(address))


TECHNIQUE = Technique(
    source="unix(7); syslog and journald sockets",
    policy=another_port,
    event=("net.connect", "net.send", "ipc.unix", "net.socket"),
    by="kernel",
    stops=("notification", "root view"),
    control=Bare(),
)
