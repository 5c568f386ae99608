"""Follow a granted host's redirect to another."""

import urllib.request

from tests.escape.grants import any_request, by_name
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    urllib.request.urlopen(f"http://api.escape.test:{world.web}/granted/away", timeout=5)


TECHNIQUE = Technique(
    source="SSRF by redirect: CWE-918",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(any_request),
    thread=NO_PROXY,
)
