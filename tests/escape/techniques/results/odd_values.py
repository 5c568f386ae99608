"""Post numbers, texts and keys that break readers: huge integers, NaN, surrogates, bytes as keys."""

from tests.escape.technique import Alone, Technique


def attack(world):
    for value in (
        2**64,
        -(2**63) - 1,
        float("nan"),
        float("inf"),
        "\ud800",
        {b"\xff": 1},
        {1.5: 2},
        {None: 1},
        b"\0" * 100,
        "\0",
    ):
        try:
            post(value)
        except TypeError as error:
            print(error)


TECHNIQUE = Technique(
    source="CWE-20",
    no_event="nothing is refused by policy: what is not plain data does not travel",
    stops=("wire",),
    ends=("SandboxDied",),
    then="'alive'",
    control=Alone("what is plain data arrives"),
)
