"""Open the secret by its x32 number, which a filter for x86-64 may not know."""

import os

from tests.escape.technique import Alone, Technique, silent


def attack(world):
    result, _ = world.attempt(0x40000000 | world.nr["openat"], -100, os.fsencode(world.secret), 0)
    if result >= 0:
        world.take(result)


TECHNIQUE = Technique(
    source="seccomp(2), notes on __X32_SYSCALL_BIT; libseccomp issue tracker",
    event=("kernel.syscall",),
    stops=("seccomp",),
    ends=("SandboxDied",),
    control=Alone("this kernel has no x32 (CONFIG_X86_X32_ABI): the number is unknown to it as well"),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
