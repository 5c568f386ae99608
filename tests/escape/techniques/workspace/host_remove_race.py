"""Swap a directory for a link to one outside while the host removes it."""

import os
import time

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    until = time.monotonic() + 0.4 * world.slowness
    while time.monotonic() < until:
        try:
            os.makedirs("tree/real/below")
            open("tree/real/canary.txt", "w").close()
            os.symlink(world.outside, "tree/link")
        except OSError:
            pass
        world.swap(b"tree/real", b"tree/link")


def outside_read(sandbox, targets):
    for name in ("tree/real", "tree/link", "tree"):
        try:
            sandbox.files.remove(f"{name}/canary.txt")
        except OSError:
            pass
        try:
            sandbox.files.remove(name)
        except OSError:
            pass
    return ""


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top:
        for name in ("real", "link"):
            os.unlink(f"{top}/tree/{name}/canary.txt")
    return ""


TECHNIQUE = against_the_host(
    "CWE-367; rmtree, CVE-2018-1000802 and CVE-2022-21658",
    reader=outside_read,
    careless=outside_careless,
    also=("fs.write", "fs.create"),  # its own opening may meet the link that it put there
)
