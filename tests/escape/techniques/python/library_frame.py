"""Pretend to be library code by a faked file name, which imports are not asked about."""

import os

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    code = compile("import subprocess\nsubprocess.run([tool, 'ESCAPED:', 'library'])", os.__file__, "exec")
    exec(code, {"tool": world.tool, "__name__": "os"})


TECHNIQUE = Technique(
    source="docs/hooks.md: a guest can fake co_filename",
    policy=lambda p, t: p.deny_import("subprocess"),
    event=("process.exec", "process.fork"),
    stops=("broker", "notification", "seccomp"),
    control=Bare(),
    thread=not_run("strict enforcement refuses such a policy in a thread: Landlock cannot subtract"),
)
