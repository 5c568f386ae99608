"""Search all of one's own heap for the supervisor's secrets: the zygote might have held them."""

import ctypes
import re

from tests.escape.technique import OWN_MEMORY, Granted, Technique, escapes


def attack(world):
    world.libc.sbrk.restype = ctypes.c_long
    top = world.libc.sbrk(0)
    size = 1 << 20
    data = ctypes.string_at(top - size, size)
    for found in re.findall(rb"token-[0-9a-f]{32}", data):
        world.loot(found)
    import gc

    for thing in gc.get_objects():
        if isinstance(thing, dict) or hasattr(thing, "__dict__"):
            for value in list((thing if isinstance(thing, dict) else thing.__dict__).values()):
                if isinstance(value, str | bytes) and "token-" in str(value):
                    world.loot(value)


TECHNIQUE = Technique(
    source="forked workers that keep the parent's memory: CVE-2014-0160 class",
    no_event="nothing is refused: the memory is the guest's own",
    stops=("memory",),
    control=Granted(lambda p, t: p, {"env": "token"}),
    thread=escapes(OWN_MEMORY),
)
