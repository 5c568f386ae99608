"""Type into the host's terminal the ordinary way."""

import fcntl

from tests.escape.technique import Alone, Technique


def attack(world):
    fcntl.ioctl(0, 0x5412, b"x")


TECHNIQUE = Technique(
    source="CVE-2017-5226 (bubblewrap)",
    event=("kernel.ioctl",),
    by="broker",
    stops=("broker", "seccomp", "descriptors"),
    control=Alone("a control needs a terminal; syscalls/truncated_ioctl has one of its own"),
)
