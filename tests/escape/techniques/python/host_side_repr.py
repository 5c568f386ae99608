"""Post an object whose repr, str and eq harm whoever looks at it."""

from tests.escape.technique import Alone, Technique


class Trap:
    def __init__(self, path):
        self.path = path

    def spring(self, *_):
        with open(self.path, "w") as file:
            file.write("owned")
        return "trap"

    __repr__ = __str__ = __eq__ = __hash__ = __len__ = spring


def attack(world):
    try:
        post(Trap(world.canary))
    except Exception as error:
        print(type(error))


TECHNIQUE = Technique(
    source="CVE-2022-36099 class: callbacks on host objects",
    no_event="nothing is refused: what is not plain data does not travel",
    stops=("wire",),
    control=Alone("the host gets plain data only; tests/unit/test_wire.py"),
)
