"""Get a hold of another process by pidfd_open, and signal it."""

from tests.escape.technique import Bare, InThread, Technique


def attack(world):
    descriptor = world.syscall("pidfd_open", world.victim, 0)
    world.syscall("pidfd_send_signal", descriptor, 15, None, 0)


TECHNIQUE = Technique(
    source="pidfd_send_signal(2)",
    no_event="the cell's pid namespace holds no such process: ESRCH",
    stops=("namespaces",),
    control=Bare(),
    thread=InThread("stopped"),
)
