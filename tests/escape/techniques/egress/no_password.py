"""Use the proxy without a password, and with made-up ones."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    target = f"http://{host}/granted/../taken" if world.proxy() else "/taken"
    for header in ("", "Proxy-Authorization: Basic c2FuZGJveDo=\r\n", "Proxy-Authorization: Basic AAAA\r\n"):
        if (
            got := world.ask(world.web, f"GET {target} HTTP/1.1", f"Host: {host}", header=header)
        ) and b" 407 " not in got:
            world.got("the proxy served nobody")


TECHNIQUE = Technique(
    source="open proxies: T1090",
    policy=by_name,
    no_event="without its password a request is not taken for the sandbox's: its event is the host's",
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
