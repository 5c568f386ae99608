"""Post without end."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    while True:
        post(1)


TECHNIQUE = Technique(
    source="CWE-400",
    policy=lambda p, t: p.with_limits(messages=50),
    event=("limit.messages",),
    stops=("limits",),
    must_end=("MessagesExceeded",),
    control=Alone("tests/host/test_limits_sandbox.py: under the limit it runs"),
    thread=not_run("a thread's messages are objects in the host's own queue"),
)
