"""Open the supervisor's pinned BPF objects."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("bpf", 7, ctypes.create_string_buffer(128), 128)


TECHNIQUE = Technique(
    source="bpf(2) BPF_OBJ_GET",
    event=("kernel.bpf",),
    by="kernel",
    syscall="bpf",
    stops=("seccomp",),
    control=Bare(root=True, answer="EFAULT|EINVAL|ENOENT"),
)
