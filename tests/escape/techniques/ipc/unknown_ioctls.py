"""Send other ioctls to every descriptor: file attributes, loop, namespaces, random."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    descriptor = world.open_raw(world.granted)
    for command in (0x40086602, 0x401C5820, 0x4C80, 0xB701, 0x80045200, 0x5308, 0x40086604, 0xC0045878, 0x5452, 0x8933):
        result, _ = world.attempt("ioctl", descriptor, command, ctypes.create_string_buffer(4096))
        if result >= 0:
            world.got(f"ioctl {command:#x}")


TECHNIQUE = Technique(
    source="ioctl_list(2); landlock LANDLOCK_ACCESS_FS_IOCTL_DEV",
    event=("kernel.ioctl",),
    by="kernel",
    syscall="ioctl",
    stops=("seccomp",),
    control=Bare(answer="ENOTTY"),
)
