"""Reach another sandbox: its root, its files, its standard streams."""

from tests.escape.technique import ABSENT, Alone, Technique


def attack(world):
    for name in ("root/etc", "fd/1", "fd/3", "mem", "environ", "cwd"):
        result, _ = world.attempt("openat", -100, f"/proc/{world.sibling}/{name}".encode(), 2)
        if result >= 0:
            world.got(f"the sibling's {name}")


TECHNIQUE = Technique(
    source="proc(5); sandboxes of one user",
    no_event=ABSENT,
    stops=("root view", "landlock", "namespaces"),
    control=Alone("a plain process of this user may not look into a cell either: it lives in a user namespace"),
)
