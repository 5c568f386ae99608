"""Find the old files below a granted path whose parent directory was moved away."""

import os
import shutil

from tests.escape.grants import read_secret
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def grant(policy, targets):
    place = targets.outbox + "/stale"
    if not os.path.exists(place):
        os.makedirs(place + "/work")
    return policy.allow_read(place + "/work")


def _keep(targets, path):
    """The secret comes to where the old tables led."""
    shutil.copyfile(targets.secret, path)
    os.chmod(path, 0o666)


def change(targets):
    place = targets.outbox + "/stale"
    os.rename(place, targets.outbox + "/vault")
    os.makedirs(place + "/work")
    _keep(targets, targets.outbox + "/vault/work/secret")


def attack(world):
    try:
        world.take(world.open_raw(world.outbox + "/stale/work/secret"))
    except OSError:
        pass
    world.take(world.open_raw(world.secret))


TECHNIQUE = Technique(
    source="rename(2) of a directory takes all below along",
    policy=grant,
    host=change,
    event=("fs.read",),
    by="kernel",
    stops=("supervisor", "root view", "landlock"),
    thread=silent(LANDLOCK_SILENT),
    control=Granted(read_secret),
)
