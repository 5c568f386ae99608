"""Have the proxy connect to an IPv6 address of this machine."""

from tests.escape.grants import by_name, connect_tcp6
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"[::1]:{world.tcp6}"
    world.ask(world.tcp6, f"GET http://{host}/ HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="SSRF by IPv6: CWE-918",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(connect_tcp6),
    thread=NO_PROXY,
)
