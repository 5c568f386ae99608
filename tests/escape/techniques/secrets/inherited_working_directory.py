"""Use the working directory that one was started in."""

import ctypes
import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    buffer = ctypes.create_string_buffer(4096)
    result, _ = world.attempt("openat", -100, b".", os.O_DIRECTORY)
    if result >= 0:
        size = world.syscall("getdents64", result, buffer, 4096)
        if b"pyisolate" in buffer.raw[:size]:
            world.got("the supervisor's directory")
    descriptor, _ = world.attempt("openat", -100, b"tests/escape/ground.py", 0)
    if descriptor >= 0:
        world.got("the supervisor's files")


TECHNIQUE = Technique(
    source="CVE-2024-21626 (runc: working directory outside)",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
