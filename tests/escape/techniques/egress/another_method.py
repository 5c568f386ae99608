"""Ask to read, and name another method in a header, whose name is spelled as servers behind CGI or WSGI read it, too."""

from tests.escape.grants import by_name_to_read
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host = f"api.escape.test:{world.web}"
    for name in ("X-HTTP-Method-Override", "X_HTTP_Method_Override"):
        world.ask(world.web, f"GET http://{host}/granted/read HTTP/1.1", f"Host: {host}", f"{name}: DELETE")


TECHNIQUE = Technique(
    source="X-HTTP-Method-Override; RFC 3875, 4.1.18; CVE-2015-0219",
    policy=by_name_to_read,
    event=("net.http",),
    stops=("egress proxy",),
    control=Granted(lambda p, t: p.allow_http(f"* api.escape.test:{t.web}/granted/*")),
    thread=NO_PROXY,
)
