"""Fill memory in children, each of which stays under the limit."""

import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for _ in range(6):
        if world.fork() == 0:
            hoard = bytearray(b"x" * (40 << 20))
            time.sleep(20)
            print(len(hoard))
    time.sleep(8)


TECHNIQUE = Technique(
    source="setrlimit(2): RLIMIT_AS is per process",
    policy=lambda p, t: p.allow_fork().with_limits(memory="96MiB"),
    event=("limit.memory",),
    stops=("limits",),
    must_end=("MemoryExceeded",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("a limit on a thread's memory would be one on the host's"),
)
