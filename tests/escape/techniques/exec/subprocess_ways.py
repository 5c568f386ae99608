"""Start a program by every function of the standard library."""

import multiprocessing
import os
import pty
import subprocess

from tests.escape.grants import run_tool
from tests.escape.technique import Granted, Technique


def attack(world):
    words = [world.tool, "ESCAPED:", "library"]
    line = " ".join(words)
    ways = (
        lambda: subprocess.run(words),
        lambda: subprocess.check_output(line, shell=True),
        lambda: os.system(line),
        lambda: os.popen(line).read(),
        lambda: os.posix_spawn(world.tool, words, {}),
        lambda: os.spawnv(os.P_WAIT, world.tool, words),
        lambda: pty.spawn(words),
        lambda: multiprocessing.get_context("fork").Process(target=print, args=("ESCAPED: fork",)).start(),
        lambda: __import__("asyncio").run(__import__("asyncio").create_subprocess_exec(*words)),
        lambda: __import__("platform").popen(line) if hasattr(__import__("platform"), "popen") else None,
        lambda: __import__("ctypes.util").util._findLib_gcc("c"),
        lambda: __import__("uuid")._ifconfig_getnode(),
        lambda: __import__("webbrowser").get(f"{world.tool} %s").open("ESCAPED:browser"),
    )
    for way in ways:
        try:
            print(way())
        except Exception as error:
            print(type(error).__name__, error)


TECHNIQUE = Technique(
    source="GTFOBins python; HackTricks, Bypass Python sandboxes",
    event=("process.exec", "process.fork"),
    by="broker",
    stops=("broker", "notification"),
    control=Granted(run_tool),
)
