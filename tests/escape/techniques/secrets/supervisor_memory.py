"""Read the supervisor's memory through /proc."""

from tests.escape.technique import ABSENT, Bare, Technique


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


TECHNIQUE = Technique(source="proc(5)", no_event=ABSENT, stops=("root view", "landlock", "namespaces"), control=Bare())
