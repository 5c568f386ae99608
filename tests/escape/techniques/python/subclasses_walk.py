"""Walk from a tuple to every class, to a module's globals, to the real os."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    for kind in ().__class__.__base__.__subclasses__():
        if kind.__name__ == "_wrap_close":
            scope = kind.__init__.__globals__
            try:
                scope["system"](f"{world.tool} ESCAPED: shell")
            except OSError as error:
                print(error)
            descriptor = scope["open"](world.secret, 0)
            world.take(descriptor)


TECHNIQUE = Technique(
    source="HackTricks, Bypass Python sandboxes: __subclasses__ to os._wrap_close",
    event=("fs.read", "process.exec"),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
