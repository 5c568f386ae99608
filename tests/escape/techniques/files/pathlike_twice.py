"""Give open a path object that names another file the second time it is asked."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


class Turncoat:
    def __init__(self, world):
        self.names = [world.granted, world.secret, world.secret]

    def __fspath__(self):
        return self.names.pop(0) if len(self.names) > 1 else self.names[0]


class Name(str):
    def __str__(self):
        return "/nothing"

    def __fspath__(self):
        return str.__str__(self)


def attack(world):
    for path in (Turncoat(world), Name(world.secret)):
        try:
            world.loot(open(path).read())
        except OSError:
            pass


TECHNIQUE = Technique(
    source="CWE-367; str subclasses that lie (RestrictedPython, pysandbox reviews)",
    event=("fs.read",),
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
