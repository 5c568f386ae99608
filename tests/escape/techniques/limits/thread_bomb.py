"""Start threads without end."""

import threading
import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    while True:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()


TECHNIQUE = Technique(
    source="CWE-400; pthread_create(3)",
    policy=lambda p, t: p.with_limits(processes=12),
    event=("limit.processes",),
    stops=("limits",),
    must_end=("ProcessesExceeded",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("threads of a thread are the host's"),
)
