"""Replace what the hooks are made of: isinstance, PolicyError, builtins.open."""

import builtins
import sys

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    for name, module in list(sys.modules.items()):
        if name.startswith("pyisolate"):
            for attribute in ("PolicyError", "InvalidRecord"):
                if hasattr(module, attribute):
                    setattr(module, attribute, Warning)
    builtins.isinstance, kept = lambda *_: True, builtins.isinstance
    try:
        text = open(world.secret).read()
    finally:
        builtins.isinstance = kept
    world.loot(text)


TECHNIQUE = Technique(
    source="pyjail collections: patching builtins; pysandbox post-mortem",
    event=("fs.read",),
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
    thread=not_run("it patches the host's own modules; python/patched_builtin shows what that means"),
)
