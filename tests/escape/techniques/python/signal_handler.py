"""Do it in a signal handler, between two bytecodes of the runtime."""

import signal

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    def handler(_number, _frame):
        world.loot(open(world.secret).read())

    signal.signal(signal.SIGUSR1, handler)
    signal.raise_signal(signal.SIGUSR1)


TECHNIQUE = Technique(
    source="signal documentation: handlers run in the main thread between bytecodes",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
    thread=not_run("Python allows signal handlers in the main thread only"),
)
