"""Have the host read a file with holes that claims more than there is memory for."""

import os

from tests import inside
from tests.escape.grants import workspace
from tests.escape.technique import NO_WORKSPACE, OWN_FILE, Careless, Technique

CLAIMED = 128 << 20


def attack(world):
    os.mkdir("new")
    for name in ("huge", "new/huge"):  # whole before the host finds it
        with open("claims", "w") as file:
            file.truncate(CLAIMED)
        os.rename("claims", name)
    os.rename("new", "d")


def outside_read(sandbox, targets):
    import tempfile

    from pyisolate.errors import SandboxError

    with tempfile.TemporaryDirectory() as folder:
        for name in ("huge", "d"):
            try:
                sandbox.files.get(name, f"{folder}/{name}")
                return "ESCAPED: the host copied it all"
            except SandboxError:
                pass
    try:
        sandbox.files.read("huge", max_bytes=1 << 20)
    except SandboxError:
        return ""
    return "ESCAPED: the host read it all"


def outside_careless(sandbox, targets):
    with inside.workspace(sandbox) as top, open(f"{top}/huge", "rb") as file:
        return f"ESCAPED: {len(file.read())} bytes"


TECHNIQUE = Technique(
    source="CWE-409; tar and sparse files",
    policy=lambda p, t: workspace(p, t).with_limits(file_size="1GiB"),
    reader=outside_read,
    no_event=OWN_FILE,
    stops=("supervisor",),
    control=Careless(outside_careless),
    thread=NO_WORKSPACE,
)
