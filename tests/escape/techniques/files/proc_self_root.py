"""Reach the secret through /proc/self/root and /proc/1/root."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for way in (
        "/proc/self/root",
        "/proc/1/root",
        "/proc/thread-self/root",
        "/proc/self/task/1/root",
        "/proc/self/cwd",
    ):
        result, _ = world.attempt("openat", -100, os.fsencode(way + world.secret), 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="proc(5); landlock/fs_test.c; container escapes by /proc/1/root",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
