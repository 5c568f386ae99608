"""Read object graphs by format strings, looking for the supervisor's secrets."""

from tests.escape.technique import Granted, Technique, escapes


def attack(world):
    import json

    for path in (
        "{0.__class__.__init__.__globals__}",
        "{0.attempt.__globals__}",
        "{0.attempt.__func__.__globals__[os].environ}",
    ):
        world.loot(path.format(world))
    world.loot(f"{json.codecs.sys.modules['os'].environ}")


TECHNIQUE = Technique(
    source="CVE-2023-41039 (RestrictedPython: str.format); Armin Ronacher, Be careful with Python's new-style string format",
    no_event="nothing is refused: what it reads is the guest's own, and the secret is not in there",
    stops=("memory", "environment"),
    control=Granted(lambda p, t: p, {"env": "token"}),
    thread=escapes("the environment is the host's own"),
)
