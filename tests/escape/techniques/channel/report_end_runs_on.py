"""Report the end of a program of `popen` that runs on, and go on past its time."""

import os
import time
from pathlib import Path

from tests.escape.grants import sleep_a_moment
from tests.escape.technique import against_its_attendant


def attack(world):
    world.on_report(lambda pipe: os.write(pipe, b"\x00\x07"))


def outside_runs(pid):
    """Tell whether a child of a process runs: what has ended stays until a guest reaps it, as it likes."""
    children = " ".join(task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")).split()
    stats = [Path(f"/proc/{child}/stat") for child in children]
    return any(stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX" for stat in stats)


def outside_read(sandbox, targets):
    status = sandbox.popen(["sleep", "60"]).wait(5 * targets.slowness)
    until = time.monotonic() + 4 * targets.slowness
    while time.monotonic() < until:
        if not outside_runs(sandbox.pid):
            sandbox.close()  # once is enough
            return f"the guest said {status}"
        time.sleep(0.02)
    return "ESCAPED: the program outlives its time"


TECHNIQUE = against_its_attendant("CWE-345: an end that is none", reader=outside_read, policy=sleep_a_moment)
