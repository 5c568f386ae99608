"""Report of a program of `popen` what is half a report, or no exit status."""

import os

from tests.escape.grants import sleep_a_moment
from tests.escape.technique import against_its_attendant


def attack(world):
    world.on_report(lambda pipe: os.write(pipe, b"\x7f\xfe\x00"))


def outside_read(sandbox, targets):
    process = sandbox.popen(["sleep", "60"])
    return f"ESCAPED: it was believed: {process.wait(5 * targets.slowness)}"


TECHNIQUE = against_its_attendant("CWE-20: a pipe's bytes, malformed", reader=outside_read, policy=sleep_a_moment)
