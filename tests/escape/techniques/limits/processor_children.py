"""Use the processor in children, each for less than the limit."""

import os
import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for _ in range(12):
        child = world.fork()
        if child == 0:
            end = time.process_time() + 0.4
            while time.process_time() < end:
                pass
            os._exit(0)
        os.waitpid(child, 0)
    world.got("five seconds of processor under a limit of one")


TECHNIQUE = Technique(
    source="setrlimit(2) RLIMIT_CPU is per process",
    policy=lambda p, t: p.allow_fork().with_limits(cpu="1s"),
    event=("limit.cpu",),
    stops=("limits",),
    must_end=("CPUExceeded",),
    timeout_s=25.0,
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("children of a thread are the host's"),
)
