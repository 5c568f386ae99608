"""Tell by stat whether a file outside exists."""

import ctypes
import os

from tests.escape.technique import Bare, Technique, escapes


def attack(world):
    answers = {}
    for path in (world.secret, world.secret + "-absent"):
        buffer = ctypes.create_string_buffer(256)
        answers[path] = world.attempt("newfstatat", -100, os.fsencode(path), buffer, 0)
    if answers[world.secret] != answers[world.secret + "-absent"]:
        world.got(f"existence: {answers}")


TECHNIQUE = Technique(
    source="Landlock does not handle stat; CWE-204",
    event=("fs.lookup",),
    stops=("root view", "bpf-lsm"),
    control=Bare(),
    thread=escapes("Landlock does not handle stat, and there is no root view"),
)
