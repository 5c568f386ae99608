"""Hold connections to the proxy that bear no password, so that places of others are taken, and one's own are not counted."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    held = [world.proxied(world.web)[0] for _ in range(40)]
    target = f"http://{host}/granted/x" if world.proxy() else "/granted/x"
    if b" 200 " in world.ask(world.web, f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close"):
        world.got("a connection past those that a sandbox may have was served")
    for one in held:
        one.close()


TECHNIQUE = Technique(
    source="CWE-770",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
