"""Reach the secret through /proc/PID/root of the victim and the supervisor."""

import os

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for pid in (world.victim, world.supervisor):
        result, _ = world.attempt("openat", -100, os.fsencode(f"/proc/{pid}/root{world.secret}"), 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="proc(5); CVE-2024-21626",
    event=("fs.read",),
    unseen_bpf="without a root view the host's /proc is there, whose own check of users (ptrace(2)) refuses first",
    stops=("root view", "landlock", "namespaces"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
