"""Read the host's environment, in every place where it could be."""

import ctypes
import os

from tests.escape.technique import Granted, Technique, escapes


def attack(world):
    world.loot(str(dict(os.environ)) + str(os.environb))
    environ = ctypes.POINTER(ctypes.c_char_p).in_dll(world.libc, "environ")
    index = 0
    while environ and environ[index]:
        world.loot(environ[index])
        index += 1
    for pid in ("self", "1", str(os.getppid()), "thread-self", str(world.supervisor), str(world.victim)):
        descriptor, _ = world.attempt("openat", -100, f"/proc/{pid}/environ".encode(), 0)
        if descriptor >= 0:
            world.loot(os.read(descriptor, 65536))


TECHNIQUE = Technique(
    source="environ(7); CI secrets in /proc/*/environ",
    event=("fs.read",),
    stops=("environment", "root view", "namespaces"),
    control=Granted(lambda p, t: p, {"env": "token"}),
    thread=escapes("the environment is the host's own"),
)
