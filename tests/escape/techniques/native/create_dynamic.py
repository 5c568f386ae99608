"""Load an extension module's file by _imp.create_dynamic, past the import hook."""

import _imp
import importlib.machinery

from tests.escape.grants import native_directory
from tests.escape.technique import Bare, Technique, silent


def attack(world):
    name = world.extension.rpartition("/")[2].partition(".")[0]
    loader = importlib.machinery.ExtensionFileLoader(name, world.extension)
    spec = importlib.machinery.ModuleSpec(name, loader, origin=world.extension)
    _imp.create_dynamic(spec)
    world.got("an extension module")


TECHNIQUE = Technique(
    source="pyjail collections: _imp.create_dynamic; issue of import rules in user space",
    policy=native_directory,
    event=("import.native", "import.module"),
    by="broker",
    stops=("broker", "root view"),
    control=Bare(),
    thread=silent("the broker refuses by the name it is asked for"),
)
