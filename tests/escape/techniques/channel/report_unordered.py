"""Report of a program of `popen` signals that the host never ordered, without end."""

import os

from tests.escape.grants import sleep_a_moment
from tests.escape.technique import against_its_attendant


def attack(world):
    def flood(pipe):
        while True:
            os.write(pipe, b"\x7f\xff" * 2048)

    world.on_report(flood)


def outside_read(sandbox, targets):
    process = sandbox.popen(["sleep", "60"])
    return f"ESCAPED: it was believed: {process.wait(5 * targets.slowness)}"


TECHNIQUE = against_its_attendant(
    "CWE-770: a flood of reports", reader=outside_read, policy=sleep_a_moment, sibling_s=2.0
)
