"""Have the host read the secret through links that the guest made: to the file, to its directory, to the root."""

import os

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    os.symlink(world.secret, "file")
    os.symlink(os.path.dirname(world.secret), "directory")
    os.makedirs("a/b")
    os.symlink("../" * 20 + world.secret[1:], "a/b/up")
    os.symlink("/proc/self/environ", "environ")


def outside_read(sandbox, targets):
    found = []
    for name in ("file", "directory/secret", "a/b/up", "environ"):
        try:
            found.append(sandbox.files.read_text(name))
        except OSError:
            pass
    return "\n".join(found)


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top:
        return open(f"{top}/file").read() + open(f"{top}/directory/secret").read()


TECHNIQUE = against_the_host("CWE-59; docker cp, CVE-2018-15664", reader=outside_read, careless=outside_careless)
