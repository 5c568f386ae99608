"""Announce arguments of a call that would decode to far more than was sent."""

from tests.escape.technique import NO_WIRE, Alone, Technique, not_run


def attack(world):
    arguments = b"\x92\xdd\x7f\xff\xff\xff" + b"\x90" * 1000
    world.send(world.frame("host_call", id=1, name="search", arguments=arguments))
    import time

    time.sleep(5)


TECHNIQUE = Technique(
    source="CWE-789: hostile arguments of a call",
    event=("control.call",),
    by="broker",
    ends=("SandboxDied", "SandboxClosed"),
    stops=("supervisor", "wire"),
    control=Alone("tests/host/test_host_functions.py sends arguments of other shapes to a function that exists"),
    thread=not_run(NO_WIRE),
)
