"""Do it from a sub-interpreter, which has hooks of its own."""

from tests.escape.technique import Bare, Technique


def attack(world):
    import _xxsubinterpreters as interpreters

    inner = interpreters.create()
    interpreters.run_string(inner, f"print('LOOT:', open({world.secret!r}).read(), flush=True)")


TECHNIQUE = Technique(
    source="PEP 554, PEP 578; pyjail collections: sub-interpreters",
    no_event="the native hook refuses to make one: its callable belongs to one interpreter",
    stops=("broker",),
    control=Bare(),
    policy=lambda p, t: p.allow_native("_xxsubinterpreters"),
)
