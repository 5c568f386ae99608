"""Reach another sandbox: its root, its files, its standard streams."""

from tests.escape.technique import Alone, Technique, silent


def attack(world):
    for name in ("root/etc", "fd/1", "fd/3", "mem", "environ", "cwd"):
        result, _ = world.attempt("openat", -100, f"/proc/{world.sibling}/{name}".encode(), 2)
        if result >= 0:
            world.got(f"the sibling's {name}")


TECHNIQUE = Technique(
    source="proc(5); sandboxes of one user",
    event=("fs.write",),
    stops=("root view", "landlock", "namespaces"),
    control=Alone("a plain process of this user may not look into a cell either: it lives in a user namespace"),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
