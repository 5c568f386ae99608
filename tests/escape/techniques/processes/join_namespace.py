"""Join the host's namespaces through /proc or a pidfd."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for pid in (world.victim, world.supervisor, 1):
        for kind in ("user", "mnt", "net", "pid", "ipc", "uts"):
            descriptor, _ = world.attempt("openat", -100, f"/proc/{pid}/ns/{kind}".encode(), 0)
            world.attempt("setns", max(descriptor, 0), 0)
    holder, _ = world.attempt("pidfd_open", world.victim, 0)
    world.floor("setns", max(holder, 0), 0x20000)


TECHNIQUE = Technique(
    source="setns(2); nsenter in container breakouts",
    event=("kernel.namespace",),
    by="kernel",
    syscall="setns",
    stops=("seccomp", "namespaces"),
    control=Bare(root=True),
)
