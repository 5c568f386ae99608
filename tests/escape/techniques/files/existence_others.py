"""Tell whether a file outside exists by access, readlink, statx, statfs, chdir, getxattr and rename."""

import ctypes
import os

from tests.escape.technique import HOST_TREE_BPF, Bare, Technique, escapes


def attack(world):
    def ask(path):
        path = os.fsencode(path)
        buffer = ctypes.create_string_buffer(512)
        return [
            world.attempt("faccessat2", -100, path, 0, 0)[1],
            world.attempt("readlinkat", -100, path, buffer, 256)[1],
            world.attempt("statx", -100, path, 0, 0xFFF, buffer)[1],
            world.attempt("statfs", path, buffer)[1],
            world.attempt("getxattr", path, b"user.x", buffer, 16)[1],
            world.attempt("renameat2", -100, path, -100, path, 1)[1],
        ]

    one, two = ask(world.secret), ask(world.secret + "-absent")
    if one != two:
        world.got(f"existence: {one} or {two}")


TECHNIQUE = Technique(
    source="Landlock does not handle stat, access, chdir, readlink; CWE-204",
    event=("fs.delete",),
    stops=("root view",),
    gap_bpf=HOST_TREE_BPF,
    control=Bare(),
    thread=escapes("Landlock handles none of these"),
)
