"""Open the secret by a raw system call, past every hook."""

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    world.take(world.open_raw(world.secret))


TECHNIQUE = Technique(
    source="man 2 syscall; CPython audits only its own functions (PEP 578)",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
