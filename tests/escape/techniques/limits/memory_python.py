"""Fill memory with objects."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * (4 << 20)))


TECHNIQUE = Technique(
    source="CWE-770; setrlimit(2)",
    policy=lambda p, t: p.with_limits(memory="96MiB"),
    event=("limit.memory",),
    must_end=("MemoryExceeded",),
    stops=("limits",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("a limit on a thread's memory would be one on the host's"),
)
