"""Paste into the host's console by TIOCLINUX."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for command in (0x541C, 0x5437, 0x4B4D, 0x4B46, 0x5401 | 0x10000):
        result, _ = world.attempt("ioctl", 0, command, b"\x02\x00")
        if result == 0:
            world.got(f"ioctl {command:#x}")


TECHNIQUE = Technique(
    source="CVE-2023-1523 (snapd: TIOCLINUX)",
    event=("kernel.ioctl",),
    by="kernel",
    syscall="ioctl",
    stops=("seccomp", "descriptors"),
    control=Bare(answer="ENOTTY"),
)
