"""Print without end on both streams in turn, from a thread, between requests."""

import os
import threading

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    def work():
        while True:
            os.write(2, b"x" * 4096)
            os.write(1, b"x" * 4096)

    threading.Thread(target=work, daemon=True).start()


TECHNIQUE = Technique(
    source="CWE-400",
    policy=lambda p, t: p.with_limits(output="256KiB"),
    event=("limit.output",),
    stops=("limits",),
    ends=("OutputExceeded",),
    then="import time; time.sleep(8)",
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("it would write to the host's own output"),
)
