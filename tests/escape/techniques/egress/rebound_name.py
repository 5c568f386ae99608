"""Ask for a granted name that has come to lead to this machine."""

from tests.escape.grants import by_name_elsewhere, connect_tcp
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"rebound.escape.test:{world.tcp}"
    world.ask(world.tcp, f"GET http://{host}/ HTTP/1.1", f"Host: {host}")


TECHNIQUE = Technique(
    source="DNS rebinding: CWE-350",
    policy=by_name_elsewhere,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(connect_tcp),
    thread=NO_PROXY,
)
