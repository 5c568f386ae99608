"""Load a denied module's file with a loader of one's own."""

import importlib.machinery
import importlib.util

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    path = importlib.util.__file__.replace("importlib/util.py", "this.py")
    loader = importlib.machinery.SourceFileLoader("fresh", path)
    loader.get_data(path)
    world.got("the source of a denied module")


TECHNIQUE = Technique(
    source="docs/hooks.md: a loader that the guest calls itself; pyjail: BuiltinImporter.load_module",
    policy=lambda p, t: p.deny_import("this"),
    event=("fs.read", "import.module"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Bare(),
    thread=not_run("strict enforcement refuses such a policy in a thread: Landlock cannot subtract"),
)
