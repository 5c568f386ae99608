"""Have the proxy connect to an address of this machine."""

from tests.escape.grants import by_name, connect_tcp
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"127.0.0.1:{world.tcp}"
    world.ask(world.tcp, f"GET http://{host}/ HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="SSRF: CWE-918",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(connect_tcp),
    thread=NO_PROXY,
)
