"""Turn a granted request into another protocol."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    target = f"http://{host}/granted/x" if world.proxy() else "/granted/x"
    world.ask(world.web, f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: h2c")


TECHNIQUE = Technique(
    source="h2c smuggling: RFC 7540, 3.2",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
