"""Ask for a path that begins as a granted one, and that servers take for another."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    for path in ("/granted/../taken", "/granted/%2e%2e/taken..", "/granted/..;/taken", "//granted/../taken"):
        target = f"http://{host}{path}" if world.proxy() else path
        world.ask(world.web, f"GET {target} HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="path confusion between proxy and server: CVE-2021-41773 class",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
