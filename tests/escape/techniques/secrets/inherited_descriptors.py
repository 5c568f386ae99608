"""Read every descriptor that is open."""

import os

from tests.escape.technique import Alone, Technique, escapes


def attack(world):
    for descriptor in list(range(0, 256)) + [world.inherited]:
        if descriptor == 0:
            continue
        try:
            world.loot(os.pread(descriptor, 4096, 0))
        except OSError:
            pass


TECHNIQUE = Technique(
    source="CVE-2024-21626 (runc: an inherited descriptor); CVE-2016-9962",
    no_event="nothing is refused: no descriptor is inherited",
    stops=("descriptors",),
    control=Alone("the supervisor holds one, inheritable, open on the secret: the thread column shows it"),
    thread=escapes("descriptors are the process's own"),
)
