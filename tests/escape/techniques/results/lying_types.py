"""Post subclasses of plain types that lie about themselves."""

from tests.escape.technique import Alone, Technique, silent


class Text(str):
    def __len__(self):
        return -1


class Map(dict):
    def items(self):
        return [("x", open("/etc/shadow"))]


class Number(int):
    def __index__(self):
        return 2**70


def attack(world):
    for value in (Text("x"), Map(a=1), Number(5), [Text("y")]):
        try:
            post(value)
        except (TypeError, OSError) as error:
            print(error)


TECHNIQUE = Technique(
    source="CWE-843; RestrictedPython reviews",
    no_event="nothing is refused by policy",
    stops=("wire",),
    ends=("SandboxDied",),
    control=Alone("what is plain data arrives"),
    thread=silent("objects are shared as they are"),
)
