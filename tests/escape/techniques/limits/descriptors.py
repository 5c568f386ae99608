"""Open files without end."""

import os

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    held = []
    while True:
        held.append(os.dup(0))


TECHNIQUE = Technique(
    source="CWE-400; getrlimit(2) RLIMIT_NOFILE",
    policy=lambda p, t: p.with_limits(open_files=40),
    event=("limit.open_files",),
    stops=("limits",),
    must_end=("OpenFilesExceeded",),
    control=Alone("tests/host/test_rlimit.py: under the limit it runs"),
    thread=not_run("descriptors of a thread are the host's"),
)
