"""Open the supervisor's and the victim's descriptors through /proc/PID/fd."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for pid, descriptor in ((world.supervisor, world.inherited), (world.victim, 0)):
        result, _ = world.attempt("openat", -100, f"/proc/{pid}/fd/{descriptor}".encode(), 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="proc(5); CVE-2019-5736 (runc)",
    event=("fs.read",),
    stops=("root view", "landlock", "namespaces"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
