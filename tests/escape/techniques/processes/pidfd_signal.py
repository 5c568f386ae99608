"""Get a hold of another process by pidfd_open, and signal it."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    descriptor = world.syscall("pidfd_open", world.victim, 0)
    world.syscall("pidfd_send_signal", descriptor, 15, None, 0)


TECHNIQUE = Technique(
    source="pidfd_send_signal(2)",
    event=("process.signal",),
    stops=("namespaces",),
    control=Bare(),
    thread=silent("the filter of a sandbox thread lets the kernel answer"),
)
