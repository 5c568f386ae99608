"""Find another tenant's files at a granted directory that was moved away and made anew."""

import os
import shutil

from tests.escape.grants import read_secret
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def grant(policy, targets):
    place = targets.outbox + "/stale"
    if not os.path.exists(place):
        os.makedirs(place)
    return policy.allow_read(place)


def _keep(targets, path):
    """The secret comes to where the old tables led."""
    shutil.copyfile(targets.secret, path)
    os.chmod(path, 0o666)


def change(targets):
    place = targets.outbox + "/stale"
    os.rename(place, targets.outbox + "/tenant")
    os.mkdir(place)
    _keep(targets, targets.outbox + "/tenant/secret")


def attack(world):
    try:
        world.take(world.open_raw(world.outbox + "/stale/secret"))
    except OSError:
        pass
    world.take(world.open_raw(world.secret))


TECHNIQUE = Technique(
    source="docker/for-linux#147: a replaced directory stays the old one in containers",
    policy=grant,
    host=change,
    event=("fs.read",),
    by="kernel",
    stops=("supervisor", "root view", "landlock"),
    thread=silent(LANDLOCK_SILENT),
    control=Granted(read_secret),
)
