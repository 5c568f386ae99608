"""Load a standard extension module that the policy denies, by its file."""

import importlib.machinery
import os
import sys

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    folder = next(path for path in sys.path if path.endswith("/lib-dynload"))
    for name in os.listdir(folder):
        if name.startswith(("_lsprof.", "_crypt.", "xxlimited.")):
            loader = importlib.machinery.ExtensionFileLoader(name.partition(".")[0], f"{folder}/{name}")
            loader.create_module(
                importlib.machinery.ModuleSpec(name.partition(".")[0], loader, origin=f"{folder}/{name}")
            )
            world.got(f"denied native code: {name}")


TECHNIQUE = Technique(
    source="docs/hooks.md: a loader that the guest calls itself",
    policy=lambda p, t: p.deny_native("_lsprof", "_crypt", "xxlimited"),
    event=("import.native", "import.module", "fs.read"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Bare(),
    thread=not_run("strict enforcement refuses such a policy in a thread: Landlock cannot subtract"),
)
