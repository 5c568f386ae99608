"""Reach the secret through /proc/PID/root of the victim and the supervisor."""

import os

from tests.escape.technique import ABSENT, Bare, Technique


def attack(world):
    for pid in (world.victim, world.supervisor):
        result, _ = world.attempt("openat", -100, os.fsencode(f"/proc/{pid}/root{world.secret}"), 0)
        if result >= 0:
            world.take(result)


TECHNIQUE = Technique(
    source="proc(5); CVE-2024-21626", no_event=ABSENT, stops=("root view", "landlock", "namespaces"), control=Bare()
)
