"""Type into the host's terminal."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for descriptor in (0, 1, 2):
        result, _ = world.attempt("ioctl", descriptor, 0x5412, b"x")
        if result == 0:
            world.got("TIOCSTI")


TECHNIQUE = Technique(
    source="CVE-2017-5226 (bubblewrap), CVE-2023-28339 (doas)",
    event=("kernel.ioctl",),
    by="kernel",
    syscall="ioctl",
    stops=("seccomp", "descriptors"),
    control=Bare(answer="ENOTTY"),
)
