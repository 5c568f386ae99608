"""Take the victim's open descriptor of the secret."""

from tests.escape.technique import Bare, Technique


def attack(world):
    holder, _ = world.attempt("pidfd_open", world.victim, 0)
    world.take(world.syscall("pidfd_getfd", holder if holder >= 0 else 1, 0, 0))


TECHNIQUE = Technique(
    source="pidfd_getfd(2); landlock: denied (facts)",
    event=("process.trace",),
    by="kernel",
    syscall="pidfd_getfd",
    stops=("seccomp", "namespaces", "landlock"),
    control=Bare(),
)
