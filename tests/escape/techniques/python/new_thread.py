"""Do it from a thread of one's own, where a thread-local hook may be blind."""

import _thread
import threading

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    done = threading.Event()

    def work():
        try:
            world.loot(open(world.secret).read())
        except OSError as error:
            print(error)
        finally:
            done.set()

    _thread.start_new_thread(work, ())
    done.wait(5)


TECHNIQUE = Technique(
    source="PEP 578: per-interpreter hooks; thread-local sandboxes",
    event=("fs.read",),
    by="broker",
    stops=("broker", "root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the hooks know the sandbox's own thread only; Landlock refuses its threads, and leaves no record"),
)
