"""Load a BPF program."""

import ctypes

from tests.escape.technique import Bare, Technique


def attack(world):
    world.floor("bpf", 5, ctypes.create_string_buffer(128), 128)


TECHNIQUE = Technique(
    source="bpf(2); CVE-2021-3490, CVE-2022-23222",
    event=("kernel.bpf",),
    by="kernel",
    syscall="bpf",
    stops=("seccomp",),
    control=Bare(root=True, answer="EFAULT|EINVAL|E2BIG"),
)
