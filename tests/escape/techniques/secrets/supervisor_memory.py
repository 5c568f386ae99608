"""Read the supervisor's memory through /proc."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for name in (
        "mem",
        "maps",
        "environ",
        "cmdline",
        "fd",
        "root",
        "cwd",
        "task",
        "stack",
        "syscall",
        "fdinfo",
        "map_files",
    ):
        descriptor, _ = world.attempt("openat", -100, f"/proc/{world.supervisor}/{name}".encode(), 0)
        if descriptor >= 0:
            world.got(f"/proc/PID/{name}")


TECHNIQUE = Technique(
    source="proc(5)",
    event=("fs.read",),
    stops=("root view", "landlock", "namespaces"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
