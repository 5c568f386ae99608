"""Hide a second Host in spellings that some servers take for one."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host, evil = f"api.escape.test:{world.web}", f"evil.escape.test:{world.web}"
    target = f"http://{host}/granted/x" if world.proxy() else "/granted/x"
    for lines in ((f"Host : {evil}", f"Host: {host}"), (f"X: 1\nHost: {evil}",), (f"Host: {host}", f"Host: {evil}")):
        world.ask(world.web, f"GET {target} HTTP/1.1", *lines)


TECHNIQUE = Technique(
    source="HTTP request smuggling by header spelling: CWE-444",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
