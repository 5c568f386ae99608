"""Report nothing of a program of `popen`, and obey no order to kill it."""

from tests.escape.grants import sleep_a_moment
from tests.escape.technique import against_its_attendant


def attack(world):
    world.on_report(lambda pipe: None)


def outside_read(sandbox, targets):
    process = sandbox.popen(["sleep", "60"])
    try:
        return f"the guest said {process.wait(4 * targets.slowness)}"
    except TimeoutError as error:
        return f"ESCAPED: the host waits: {error}" if process.returncode is None else "it was killed"


TECHNIQUE = against_its_attendant("CWE-400: a process that no one ends", reader=outside_read, policy=sleep_a_moment)
