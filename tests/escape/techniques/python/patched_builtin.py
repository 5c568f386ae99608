"""Patch builtins that the host calls: len, open, __import__."""

import builtins
import threading

from tests.escape.technique import OWN_MEMORY, Alone, Technique, escapes


def attack(world):
    mine, real = threading.get_ident(), builtins.len

    def spring(thing):
        if threading.get_ident() != mine:
            builtins.len = real
            open(world.canary, "w").write("owned")
        return real(thing)

    builtins.len = spring


TECHNIQUE = Technique(
    source="a patched builtin of a shared interpreter",
    no_event="nothing is refused: the interpreter is the guest's own",
    stops=("memory",),
    control=Alone("another process's builtins are not reached"),
    thread=escapes(OWN_MEMORY),
)
