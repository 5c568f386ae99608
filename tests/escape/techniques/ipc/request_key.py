"""Have the kernel start a helper program for a key."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("request_key", b"user", b"escape-key-absent", b"x", 0)


TECHNIQUE = Technique(
    source="request_key(2): runs /sbin/request-key on the host",
    event=("kernel.keys",),
    by="kernel",
    syscall="request_key",
    stops=("seccomp",),
    control=Bare(answer="ENOKEY|ENOENT"),
)
