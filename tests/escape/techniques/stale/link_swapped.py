"""Follow a granted link to where it led before it was swapped."""

import os
import shutil

from tests.escape.grants import read_secret
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def grant(policy, targets):
    place = targets.outbox + "/stale"
    if not os.path.exists(place):
        os.makedirs(place + "/one")
        os.makedirs(place + "/two")
        os.symlink("one", place + "/link")
    return policy.allow_read(place + "/link")


def _keep(targets, path):
    """The secret comes to where the old tables led."""
    shutil.copyfile(targets.secret, path)
    os.chmod(path, 0o666)


def change(targets):
    place = targets.outbox + "/stale"
    os.unlink(place + "/link")
    os.symlink("two", place + "/link")
    _keep(targets, place + "/one/secret")


def attack(world):
    try:
        world.take(world.open_raw(world.outbox + "/stale/link/secret"))
    except OSError:
        pass
    world.take(world.open_raw(world.secret))


TECHNIQUE = Technique(
    source="symlink(7): the switch of a release directory",
    policy=grant,
    host=change,
    event=("fs.read",),
    by="kernel",
    stops=("supervisor", "root view", "landlock"),
    thread=silent(LANDLOCK_SILENT),
    control=Granted(read_secret),
)
