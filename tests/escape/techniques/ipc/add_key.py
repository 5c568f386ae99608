"""Plant a key in a keyring that the user's other processes share."""

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("add_key", b"user", b"escape-key", b"x", 1, -4)


TECHNIQUE = Technique(
    source="keyrings(7); Landlock allows it (facts); CVE-2016-0728",
    event=("kernel.keys",),
    by="kernel",
    syscall="add_key",
    stops=("seccomp", "namespaces"),
    control=Bare(),
)
