"""Make a socket of the kernel's crypto."""

from tests.escape.grants import another_port
from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("socket", 38, 5, 0)


TECHNIQUE = Technique(
    source="AF_ALG; CVE-2019-8912",
    policy=another_port,
    event=("net.socket",),
    by="kernel",
    syscall="socket",
    stops=("notification",),
    control=Bare(answer="EAFNOSUPPORT"),
)
