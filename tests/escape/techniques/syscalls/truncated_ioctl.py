"""Type into a terminal with TIOCSTI and bits above it that the kernel cuts off."""

import ctypes
import os

from tests.escape.technique import Bare, Technique


def attack(world):
    try:
        _master, slave = os.openpty()
    except OSError:
        slave = 0
    result, _ = world.attempt("ioctl", slave, 0x5412 | (1 << 32), b"x")
    if result == 0:
        world.got("TIOCSTI with high bits")
    result, _ = world.attempt("ioctl", slave, 0x5413 | (1 << 32), ctypes.create_string_buffer(64))
    if result == 0:
        world.got("an ioctl with high bits")


TECHNIQUE = Technique(
    source="CVE-2019-7303 (snapd: TIOCSTI with high bits)",
    event=("kernel.ioctl",),
    by="kernel",
    syscall="ioctl",
    stops=("seccomp",),
    control=Bare(),
)
