"""End another sandbox's cell."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    for name, arguments in (
        ("kill", (world.sibling, 9)),
        ("tgkill", (world.sibling, world.sibling, 9)),
        ("tkill", (world.sibling, 9)),
    ):
        world.attempt(name, *arguments)


TECHNIQUE = Technique(
    source="man 2 kill; landlock/scoped_signal_test.c",
    event=("process.signal",),
    stops=("namespaces", "landlock"),
    control=Alone("a control would end the sibling that the judge watches; processes/signal_victim has one"),
    thread=not_run("its pid is refused as processes/signal_victim's is; a failure would end the sibling"),
)
