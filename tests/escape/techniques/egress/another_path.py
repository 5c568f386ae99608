"""Ask a granted host for another path."""

from tests.escape.grants import any_request, by_name
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    world.ask(world.web, f"GET http://{host}/taken HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="RFC 9110, 4.2.1",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(any_request),
    thread=NO_PROXY,
)
