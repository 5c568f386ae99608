"""Reach builtins through a coroutine's and an async generator's frame."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    async def coroutine():
        return None

    async def generator():
        yield None

    one, two = coroutine(), generator()
    for frame in (one.cr_frame, two.ag_frame):
        world.loot(frame.f_builtins["open"](world.secret).read())
    one.close()


TECHNIQUE = Technique(
    source="RestrictedPython changelog: cr_frame, ag_frame",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
