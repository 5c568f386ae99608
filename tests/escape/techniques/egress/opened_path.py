"""Inside of TLS that the proxy opens, ask for another path."""

from tests.escape.grants import any_request, by_name
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"open.escape.test:{world.tls}"
    world.over_tls("open.escape.test", world.tls, "open.escape.test", "GET /taken HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="RFC 9110, 4.2.2",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(any_request),
    thread=NO_PROXY,
)
