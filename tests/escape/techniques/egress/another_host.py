"""Ask for a host that is not granted, in the form that proxies are asked in."""

from tests.escape.grants import any_request, by_name
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"evil.escape.test:{world.web}"
    world.ask(world.web, f"GET http://{host}/granted/x HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="RFC 9112, 3.2.2",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(any_request),
    thread=NO_PROXY,
)
