"""Ignore every signal and exception that says stop."""

import signal
import time

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            time.sleep(10)
        except BaseException:
            pass


TECHNIQUE = Technique(
    source="signal(7)",
    policy=lambda p, t: p.with_limits(wall="1s"),
    event=("limit.wall",),
    stops=("limits",),
    must_end=("TimeoutError",),
    control=Alone("tests/host/test_watchdog.py: under the limit it runs"),
    thread=not_run("a thread that ignores what is raised in it cannot be stopped"),
)
