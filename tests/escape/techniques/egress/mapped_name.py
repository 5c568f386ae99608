"""Ask for a granted name that leads to this machine in the clothes of IPv6."""

from tests.escape.grants import by_name_elsewhere, connect_tcp
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"mapped.escape.test:{world.tcp}"
    world.ask(world.tcp, f"GET http://{host}/ HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="RFC 4291, 2.5.5.2",
    policy=by_name_elsewhere,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(connect_tcp),
    thread=NO_PROXY,
)
