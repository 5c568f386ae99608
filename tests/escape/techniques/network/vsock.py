"""Make a socket to the hypervisor."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("socket", 40, 1, 0)


TECHNIQUE = Technique(
    source="vsock(7); Landlock allows AF_VSOCK (facts); CVE-2021-26708",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(),
)
