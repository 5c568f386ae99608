"""Write a file without end."""

from tests.escape.grants import writable_outbox
from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    with open(world.outbox + "/big", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * (1 << 20))


TECHNIQUE = Technique(
    source="CWE-400; getrlimit(2) RLIMIT_FSIZE",
    policy=lambda p, t: writable_outbox(p, t).with_limits(file_size="4MiB"),
    event=("limit.file_size",),
    stops=("limits",),
    must_end=("FileSizeExceeded",),
    control=Alone("tests/host/test_rlimit.py: under the limit it runs"),
    thread=not_run("a limit on a thread's files would be one on the host's"),
)
