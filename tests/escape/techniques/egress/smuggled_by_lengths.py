"""Hide a second request in the body of a granted one, whose length is stated twice."""

from tests.escape.grants import by_name
from tests.escape.technique import NO_PROXY, Bare, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    target = f"http://{host}/granted/x" if world.proxy() else "/granted/x"
    inner = f"GET /taken HTTP/1.1\r\nHost: {host}\r\n\r\n"
    body = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    lengths = ("Content-Length: 4", "Transfer-Encoding: chunked")
    world.ask(world.web, f"POST {target} HTTP/1.1", f"Host: {host}", *lengths, body=body)


TECHNIQUE = Technique(
    source="HTTP request smuggling, TE.CL: CWE-444",
    policy=by_name,
    event=("net.http",),
    stops=("egress proxy",),
    control=Bare(),
    thread=NO_PROXY,
)
