"""Swap a link between a granted file and the secret while another thread opens it."""

import os
import threading
import time

from tests.escape.grants import read_secret, writable_outbox
from tests.escape.technique import Granted, Technique


def attack(world):
    link, spare = world.outbox + "/race", world.outbox + "/spare"
    os.symlink(world.granted, link)
    stop, refused = time.monotonic() + 0.25 * world.slowness, threading.Event()
    at_last = stop + 5 * world.slowness  # on a busy machine the link is hardly swapped before

    def goes_on():
        return time.monotonic() < (stop if refused.is_set() else at_last)

    def flip():
        target = 0
        while goes_on():
            target = not target
            try:
                os.symlink(world.secret if target else world.granted, spare)
                os.rename(spare, link)
            except OSError:
                pass

    thread = threading.Thread(target=flip)
    thread.start()
    while goes_on():
        try:
            with open(link) as file:
                text = file.read()
            if "granted" not in text:
                world.loot(text)
        except PermissionError:
            refused.set()
        except OSError:
            pass
    thread.join()


TECHNIQUE = Technique(
    source="CWE-367; sandbox brokers that check a path and then open it again",
    policy=writable_outbox,
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
)
