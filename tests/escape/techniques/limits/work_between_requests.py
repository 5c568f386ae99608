"""Leave a thread that works on when the request has ended."""

import threading

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    def work():
        while True:
            pass

    threading.Thread(target=work, daemon=True).start()


TECHNIQUE = Technique(
    source="CWE-400: work that is in no request's time",
    policy=lambda p, t: p.with_limits(cpu="1s"),
    event=("limit.cpu",),
    stops=("limits",),
    ends=("CPUExceeded",),
    then="import time; time.sleep(20)",
    timeout_s=25.0,
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("a thread cannot be killed"),
)
