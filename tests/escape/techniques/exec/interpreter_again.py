"""Run the interpreter again, this time without hooks."""

import sys

from tests.escape.technique import Bare, Technique


def attack(world):
    for path in (world.python, sys.executable, "/proc/self/exe", "/usr/bin/python3", "/usr/bin/python3.11"):
        world.execute(path, "python", "-I", "-S", "-c", "print('ESCAPED: again')")


TECHNIQUE = Technique(
    source="PEP 578: a new process has no hooks",
    event=("process.exec",),
    by="kernel",
    syscall="execve",
    stops=("notification", "landlock", "root view"),
    control=Bare(),
)
