"""Connect to a host program's abstract socket."""

import struct

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.socket_raw(1, 1)
    address = struct.pack("=H", 1) + b"\0" + world.abstract.encode()
    world.syscall("connect", descriptor, address, len(address))


TECHNIQUE = Technique(
    source="unix(7); landlock/scoped_abstract_unix_test.c; containerd-shim CVE-2020-15257",
    policy=another_port,
    no_event="the name is looked up in the cell's own network namespace, which has none: ECONNREFUSED",
    also=("net.socket",),  # where the cell is on the host's network, the socket itself is refused
    stops=("notification", "namespaces", "landlock"),
    control=Bare(),
)
