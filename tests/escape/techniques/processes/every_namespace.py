"""Make every other kind of namespace."""

from tests.escape.technique import Bare, InThread, Technique


def attack(world):
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x20000000, 0x40000000, 0x80, 0x200, 0x400):
        result, _ = world.attempt("unshare", flag)
        if result == 0:
            world.got(f"unshare {flag:#x}")


TECHNIQUE = Technique(
    source="unshare(2)",
    event=("kernel.namespace",),
    by="kernel",
    syscall="unshare",
    stops=("seccomp", "credentials"),
    control=Bare(root=True),
    thread=InThread("stopped"),
)
