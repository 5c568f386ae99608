"""Never come back from C, where no signal handler of Python's runs."""

import re

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    re.match("(a+)+$", "a" * 64 + "b")


TECHNIQUE = Technique(
    source="CWE-1333; signal documentation: handlers do not interrupt what is calculated in C",
    policy=lambda p, t: p.with_limits(wall="1s"),
    event=("limit.wall",),
    stops=("limits",),
    must_end=("TimeoutError",),
    control=Alone("tests/host/test_watchdog.py: under the limit it runs"),
    thread=not_run("native code that never returns keeps the thread: threads cannot be killed"),
)
