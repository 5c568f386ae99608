"""Swap a directory for a link to one outside while the host writes a file in it."""

import os

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    os.makedirs("real")
    os.symlink(world.outside, "link")
    world.swap(b"real", b"link", 0.4)


def outside_read(sandbox, targets):
    for name in ("real", "link"):
        try:
            sandbox.files.write(f"{name}/canary.txt", "owned")
            sandbox.files.write(f"{name}/new/one", "owned")
        except OSError:
            pass
    return ""


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top:
        for name in ("real", "link"):
            with open(f"{top}/{name}/canary.txt", "w") as file:
                file.write("owned")
    return ""


TECHNIQUE = against_the_host("kubectl cp, CVE-2019-1002101; CWE-367", reader=outside_read, careless=outside_careless)
