"""Set other options of the process: tracer, memory map, filter, capabilities, timing, speculation."""

from tests.escape.technique import Bare, Technique


def attack(world):
    for option, value in (
        (0x59616D61, -1),
        (35, 1),
        (22, 2),
        (24, 0),
        (28, 1),
        (8, 1),
        (26, 1),
        (47, 2),
        (53, 1),
        (59, 1),
        (62, 1),
        (65, 1),
        (33, 1),
        (69, 0),
    ):
        result, _ = world.attempt("prctl", option, value, 0, 0, 0)
        if result == 0:
            world.got(f"prctl {option}")


TECHNIQUE = Technique(
    source="prctl(2)", event=("kernel.syscall",), by="kernel", syscall="prctl", stops=("seccomp",), control=Bare()
)
