"""Leave one's memory in a core file."""

import resource

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    world.got("core files are allowed")


TECHNIQUE = Technique(
    source="core(5): secrets of the interpreter in a granted directory",
    event=("kernel.capability",),
    stops=("limits", "credentials"),
    control=Alone("whether a plain process may depends on its own hard limit"),
    thread=not_run("the limit is the host process's own"),
)
