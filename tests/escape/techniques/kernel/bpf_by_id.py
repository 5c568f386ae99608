"""Walk the kernel's BPF maps by number and open them: the supervisor's policy."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("bpf", 12, ctypes.create_string_buffer(128), 128)


TECHNIQUE = Technique(
    source="bpf(2) BPF_MAP_GET_NEXT_ID, BPF_MAP_GET_FD_BY_ID",
    event=("kernel.bpf",),
    by="kernel",
    syscall="bpf",
    stops=("seccomp",),
    control=Bare(root=True, answer="OK|ENOENT"),
)
