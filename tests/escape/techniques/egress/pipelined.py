"""Send a request that is not granted right behind one that is."""

from tests.escape.grants import any_request, by_name
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    _, header = world.proxied(world.web)
    second = f"GET http://{host}/taken HTTP/1.1\r\nHost: {host}\r\n{header}\r\n"
    world.ask(world.web, f"GET http://{host}/granted/x HTTP/1.1", f"Host: {host}", body=second)


TECHNIQUE = Technique(
    source="RFC 9112, 9.3.2",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(any_request),
    thread=NO_PROXY,
)
