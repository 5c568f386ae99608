"""Find in a granted file what was written to the inode that it had before it was replaced."""

import os
import shutil

from tests.escape.grants import read_secret
from tests.escape.technique import LANDLOCK_SILENT, Granted, Technique, silent


def grant(policy, targets):
    place = targets.outbox + "/stale"
    if not os.path.exists(place):
        os.makedirs(place)
        open(place + "/report", "w").close()
    return policy.allow_read(place + "/report")


def _keep(targets, path):
    """The secret comes to where the old tables led."""
    shutil.copyfile(targets.secret, path)
    os.chmod(path, 0o666)


def change(targets):
    place = targets.outbox + "/stale"
    os.rename(place + "/report", targets.outbox + "/private")
    open(place + "/report", "w").close()
    _keep(targets, targets.outbox + "/private")


def attack(world):
    try:
        world.take(world.open_raw(world.outbox + "/stale/report"))
    except OSError:
        pass
    world.take(world.open_raw(world.secret))


TECHNIQUE = Technique(
    source="rename(2): editors and deployments replace files so",
    policy=grant,
    host=change,
    event=("fs.read",),
    by="kernel",
    stops=("supervisor", "root view", "landlock"),
    thread=silent(LANDLOCK_SILENT),
    control=Granted(read_secret),
)
