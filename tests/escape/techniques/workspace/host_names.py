"""Give files names that mislead a host or its terminal, and directories deeper than any recursion."""

import os

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    for name in (b"a\nb", b"\x1b]0;owned\x07", b"\xff\xfe", b"\xed\xa0\x80", "\u202egpj".encode(), b"-rf", b"~", b"\\"):
        os.mkdir(name)
        open(name + b"/" + name, "w").close()
    top = os.open(world.own, os.O_DIRECTORY)
    for _ in range(120):
        os.mkdir("d", dir_fd=top)
        inner = os.open("d", os.O_DIRECTORY, dir_fd=top)
        os.close(top)
        top = inner


def outside_read(sandbox, targets):
    import tempfile

    from pyisolate.errors import SandboxError

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in (".", "~", "-rf"):
            try:
                paths += [entry.path for entry in sandbox.files.list(name, recursive=name != ".")]
                fetched = sandbox.files.get(name, folder)
                paths += [*fetched.files, *fetched.left_out]
            except (OSError, SandboxError):
                pass
        paths += os.listdir(folder)
    return "".join(f"ESCAPED: {path!r}\n" for path in paths if not path.isprintable())


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top:
        return "".join(f"ESCAPED: {path!r}\n" for path in os.listdir(top) if not path.isprintable())


TECHNIQUE = against_the_host(
    "CWE-150; CVE-2003-0063 (escape sequences); CWE-674", reader=outside_read, careless=outside_careless
)
