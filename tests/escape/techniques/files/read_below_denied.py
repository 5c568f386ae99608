"""Read a file that may only be written, in a directory that is denied, below one that may be read."""

import os
import shutil

from tests.escape.technique import Granted, Technique, escapes


def grant(policy, targets):
    lock = targets.outbox + "/lock"
    os.makedirs(lock + "/priv", exist_ok=True)
    shutil.copyfile(targets.secret, lock + "/priv/s.txt")
    os.chmod(lock + "/priv/s.txt", 0o666)
    return policy.allow_read(lock).deny("fs.read", lock + "/priv").allow_write(lock + "/priv/s.txt")


def read_it(policy, targets):
    return policy.allow_read(targets.outbox + "/lock/priv/s.txt")


def attack(world):
    world.take(world.open_raw(world.outbox + "/lock/priv/s.txt"))


TECHNIQUE = Technique(
    source="landlock(7): rights of all rules on the way to a file are added up",
    policy=grant,
    event=("fs.read",),
    by="kernel",
    stops=("landlock",),
    control=Granted(read_it),
    thread=escapes("without a root view Landlock grants it: strict refuses the policy on a thread"),
)
