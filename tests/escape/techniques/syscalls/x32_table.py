"""Try x32's own numbers: execve, ptrace, io_setup."""

from tests.escape.technique import Alone, Technique


def attack(world):
    for number in (520, 521, 543, 544, 545, 547):
        result, _ = world.attempt(0x40000000 | number, 0, 0, 0, 0)
        if result >= 0:
            world.got(f"x32 call {number}")
    for number in (520, 521, 543, 547):
        result, _ = world.attempt(number, 0, 0, 0, 0)
        if result >= 0:
            world.got(f"x32 call {number} without its bit")


TECHNIQUE = Technique(
    source="CVE-2014-0038; arch/x86/entry/syscalls/syscall_64.tbl 512-547",
    event=("kernel.syscall",),
    by="kernel",
    stops=("seccomp",),
    ends=("SandboxDied",),
    control=Alone("this kernel has no x32 (CONFIG_X86_X32_ABI)"),
)
