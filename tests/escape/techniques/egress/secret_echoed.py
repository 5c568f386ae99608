"""Have a host send the credential back that the proxy gave to it."""

import os

from tests.escape.grants import with_secret, without_secret
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host, own = f"api.escape.test:{world.web}", os.environ.get("PYISOLATE_ESCAPE_TOKEN", "none")
    for path in ("/granted/x", "/granted/away"):
        lines = (f"GET http://{host}{path} HTTP/1.1", f"Host: {host}", f"X-Own: {own}", f"Authorization: {own}")
        world.ask(world.web, *lines)


TECHNIQUE = Technique(
    source="credentials in error pages: CWE-209",
    policy=with_secret,
    no_event="nothing is refused: the answer is changed",
    stops=("egress proxy",),
    control=Granted(without_secret, {"env": "token"}),
    thread=NO_PROXY,
)
