"""Recurse through C until the stack is gone."""

import sys

from tests.escape.technique import Alone, Technique, escapes


def attack(world):
    sys.setrecursionlimit(10**9)

    class Deep:
        def __getattr__(self, name):
            return getattr(self, name)

    text = []
    for _ in range(10**6):
        text = [text]
    repr(text)
    Deep().x


TECHNIQUE = Technique(
    source="CWE-674; CPython issue tracker: crashers",
    no_event="nothing is refused: the cell dies of its own doing",
    stops=("memory",),
    ends=("SandboxDied", "MemoryExceeded"),
    control=Alone("the effect would be on the supervisor, which is another process"),
    thread=escapes("the process dies, and with it the supervisor"),
)
