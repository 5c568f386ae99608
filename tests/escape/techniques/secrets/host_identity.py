"""Learn who and where one is: host name, address, mounts, machine."""

from tests.escape.technique import Bare, Technique, escapes


def attack(world):
    import platform
    import socket

    world.loot(socket.gethostname() + platform.node())
    if socket.gethostname() not in ("sandbox",):
        world.got(f"the host's name {socket.gethostname()}")


TECHNIQUE = Technique(
    source="uname(2); fingerprinting of graders",
    no_event="the cell's own host name is `sandbox`",
    stops=("namespaces",),
    control=Bare(),
    thread=escapes("a thread is in the host's namespaces"),
)
