"""Hold the lock of a directory that is granted for reading, so that the host's commit to it waits for ever."""

import fcntl
import os
import time
from pathlib import Path

from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, Alone, Technique

HELD = []


def outside_grant(policy, targets):
    Path(targets.outbox, "shared").mkdir(exist_ok=True)
    return workspace(policy, targets).allow_read(targets.outbox)


def outside_read(sandbox, targets):
    if not sandbox.files.list():
        Path(targets.outbox, "shared/file").touch()
        sandbox.files.begin_as(Path(targets.outbox, "shared"))
    sandbox.files.commit()
    return ""


def attack(world):
    while not os.path.exists("file"):
        time.sleep(0.01)
    descriptor = os.open(world.outbox + "/shared", os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    HELD.append(descriptor)
    time.sleep(0.5)


TECHNIQUE = Technique(
    source="flock(2): it takes no right to write",
    policy=outside_grant,
    reader=outside_read,
    no_event="locks of what may be read are granted; the host is refused",
    stops=("supervisor",),
    control=Alone("what is measured is whether the host waits; tests/host/test_copy_on_write.py commits"),
    thread=NO_WORKSPACE,
)
