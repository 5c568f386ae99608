"""Climb frames to the runtime's own, take its hooks out of service, and open the secret."""

import sys

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    frame = sys._getframe()
    while frame is not None:
        runtime = frame.f_locals.get("self")
        hooks = getattr(runtime, "_hooks", None)
        if hooks is not None:
            hooks.close()
        frame = frame.f_back
    world.loot(open(world.secret).read())


TECHNIQUE = Technique(
    source="HackTricks, Bypass Python sandboxes: frames; CVE-2023-37271 (RestrictedPython)",
    event=("fs.read",),
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the hook is sealed, and taking it out of service is refused; nothing was asked about"),
)
