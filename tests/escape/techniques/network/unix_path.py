"""Connect to a host program's socket by its path."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(1, 1)
    address = world.unix(world.stream)
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="Landlock allows pathname unix sockets (facts); docker.sock escapes",
    policy=another_port,
    event=("net.connect", "ipc.unix", "net.socket"),
    by="kernel",
    stops=("notification", "root view"),
    control=Bare(),
)
