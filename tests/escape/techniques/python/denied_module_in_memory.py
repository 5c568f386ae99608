"""Use a denied module that is loaded already: sys.modules, an attribute of another."""

import sys

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    module = sys.modules.get("subprocess") or __import__("asyncio").subprocess.subprocess
    print(module.run([world.tool, "ESCAPED:", "subprocess"], capture_output=False))


TECHNIQUE = Technique(
    source="HackTricks: sys.modules; docs/hooks.md: not seen",
    policy=lambda p, t: p.deny_import("subprocess"),
    event=("process.exec", "process.fork"),
    stops=("broker", "notification", "seccomp"),
    control=Granted(run_tool),
    thread=not_run("strict enforcement refuses such a policy in a thread: Landlock cannot subtract"),
)
