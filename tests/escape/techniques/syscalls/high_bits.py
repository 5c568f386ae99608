"""Add bits to a call's number that the kernel may cut off."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for bits in (1 << 32, 1 << 31, -1 << 32):
        result, _ = world.attempt((world.nr["unshare"] | bits), 0x10000000)
        if result >= 0:
            world.got(f"unshare with number bits {bits:#x}")


TECHNIQUE = Technique(
    source="the kernel takes eax, a filter must too; CVE-2019-2054 (seccomp bypass)",
    event=("kernel.namespace",),
    by="kernel",
    stops=("seccomp",),
    ends=("SandboxDied",),
    control=Bare(),
)
