"""Tell by the errno of open whether a file outside exists."""

import os

from tests.escape.technique import HOST_TREE_BPF, Bare, Technique, escapes


def attack(world):
    one = world.attempt("openat", -100, os.fsencode(world.secret), 0)[1]
    two = world.attempt("openat", -100, os.fsencode(world.secret + "-absent"), 0)[1]
    if one != two:
        world.got(f"existence: {one} or {two}")


TECHNIQUE = Technique(
    source="CWE-204: EACCES or ENOENT",
    event=("fs.read",),
    stops=("root view",),
    gap_bpf=HOST_TREE_BPF,
    control=Bare(),
    thread=escapes("Landlock says EACCES where the path lookup says ENOENT"),
)
