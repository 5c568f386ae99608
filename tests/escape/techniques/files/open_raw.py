"""Open the secret by a raw system call, past every hook."""

from tests.escape.grants import read_secret
from tests.escape.technique import ABSENT, Granted, Technique


def attack(world):
    world.take(world.open_raw(world.secret))


TECHNIQUE = Technique(
    source="man 2 syscall; CPython audits only its own functions (PEP 578)",
    no_event=ABSENT,
    stops=("root view", "landlock"),
    control=Granted(read_secret),
)
