"""Make children without end."""

import os
import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    while True:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)


TECHNIQUE = Technique(
    source="CWE-400; fork(2)",
    policy=lambda p, t: p.allow_fork().with_limits(processes=10),
    event=("limit.processes",),
    stops=("limits",),
    must_end=("ProcessesExceeded",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("children of a thread are the host's"),
)
