"""Have the credential of one host sent to another that is granted, too."""

from tests.escape.grants import secret_for_a_friend, with_secret
from tests.escape.technique import NO_PROXY, Granted, Technique


def attack(world):
    host, other = f"friend.escape.test:{world.web}", f"api.escape.test:{world.web}"
    for lines in (
        (f"Host: {host}",),
        (f"Host: {host}", f"X-Forwarded-Host: {other}", f"Referer: http://{other}/granted/x"),
    ):
        world.ask(world.web, f"GET http://{host}/granted/x HTTP/1.1", *lines)


TECHNIQUE = Technique(
    source="credentials follow redirects: CVE-2018-18074",
    policy=with_secret,
    no_event="nothing is refused: the credential stays away",
    stops=("egress proxy",),
    control=Granted(secret_for_a_friend),
    thread=NO_PROXY,
)
