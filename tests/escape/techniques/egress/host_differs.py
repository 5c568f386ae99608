"""Ask for a granted host, with another one in Host."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    target = f"http://api.escape.test:{world.web}/granted/x" if world.proxy() else "/granted/x"
    world.ask(world.web, f"GET {target} HTTP/1.1", f"Host: evil.escape.test:{world.web}")


TECHNIQUE = Technique(
    source="domain fronting by Host: T1090.004",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
