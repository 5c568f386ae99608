"""Open a tunnel to a granted name, and speak plain HTTP in it."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    with world.tunnel("a.one.escape.test", world.web) as sock:
        world.answer(sock, f"GET /taken HTTP/1.1\r\nHost: evil.escape.test:{world.web}\r\n\r\n".encode())


TECHNIQUE = Technique(
    source="CONNECT to any protocol: CERT VU#150227",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
