"""Have the host wait at a FIFO, or open a socket, in the place of a file."""

import os
import stat

from tests import inside
from tests.escape.technique import against_the_host


def attack(world):
    os.mkfifo("fifo")
    os.mkdir("d")
    os.mkfifo("d/fifo")
    os.mkfifo("target")


def outside_read(sandbox, targets):
    import tempfile

    if not any(entry.path == "target" for entry in sandbox.files.list()):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        for read in (
            lambda: sandbox.files.read("fifo"),
            lambda: sandbox.files.get("fifo", folder + "/fifo"),
            lambda: sandbox.files.get(".", folder),
            lambda: sandbox.files.put(__file__, "fifo/below"),
            lambda: sandbox.files.list("fifo"),
            lambda: sandbox.files.write("target", "over it"),
        ):
            try:
                read()
            except OSError:
                pass
        odd = [name for name in os.listdir(folder) if "fifo" in name]
        return f"ESCAPED: the host has {odd}" if odd else ""


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top:
        descriptor = os.open(f"{top}/fifo", os.O_RDONLY | os.O_NONBLOCK)
        kind = os.fstat(descriptor).st_mode
        os.close(descriptor)
        return "ESCAPED: the host opened a FIFO" if stat.S_ISFIFO(kind) else ""


TECHNIQUE = against_the_host(
    "fifo(7): open waits for the other end; CWE-833", reader=outside_read, careless=outside_careless
)
