"""Open a tunnel to a granted name, and speak TLS with another granted name of the same address in it."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"b.one.escape.test:{world.tls}"
    world.over_tls("a.one.escape.test", world.tls, "b.one.escape.test", "GET /granted/x HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="domain fronting by SNI between names of one rule: T1090.004",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
