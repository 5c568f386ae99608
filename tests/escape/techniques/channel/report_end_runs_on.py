"""Report the end of a program of `popen` that runs on, and go on past its time."""

import os
import time
from pathlib import Path

from tests.escape.grants import sleep_a_moment
from tests.escape.technique import against_its_attendant


def attack(world):
    world.on_report(lambda pipe: os.write(pipe, b"\x00\x07"))


def outside_read(sandbox, targets):
    until = time.monotonic() + 2 * targets.slowness
    status = sandbox.popen(["sleep", "60"]).wait(5)
    while time.monotonic() < until:
        children = [task.read_text() for task in Path(f"/proc/{sandbox.pid}/task").glob("*/children")]
        if not any(children):
            sandbox.close()  # once is enough
            return f"the guest said {status}"
        time.sleep(0.02)
    return "ESCAPED: the program outlives its time"


TECHNIQUE = against_its_attendant("CWE-345: an end that is none", reader=outside_read, policy=sleep_a_moment)
