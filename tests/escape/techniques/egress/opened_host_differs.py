"""Inside of TLS that the proxy opens, ask for another host."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"evil.escape.test:{world.tls}"
    world.over_tls("open.escape.test", world.tls, "open.escape.test", "GET /granted/x HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="domain fronting inside of TLS: T1090.004",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
