"""Find and close the descriptor by which the host answers."""

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    try:
        kept = world.wire()
    except OSError:  # a plain process has none
        kept = -1
    for descriptor in range(3, 256):
        if descriptor != kept:
            world.libc.close(descriptor)
    world.floor("unshare", 0x10000000)


TECHNIQUE = Technique(
    source="seccomp_unotify(2): a lost listener must fail closed (ENOSYS)",
    event=("kernel.namespace",),
    by="kernel",
    syscall="unshare",
    stops=("seccomp", "descriptors"),
    control=Bare(),
    thread=not_run("it closes descriptors of the host, the judge's channel among them"),
)
