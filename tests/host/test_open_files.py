"""What is changed of an open file by an empty name (`AT_EMPTY_PATH`) is refused with an event that names the file."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

FCHMODAT2 = 452  # Linux 6.6, one number for all machines
CALLS = {
    "fchmodat2": f"libc.syscall({FCHMODAT2}, file, b'', 0o600, 0x1000)",
    "utimensat": "libc.utimensat(file, b'', None, 0x1000)",
    "fchownat": "libc.fchownat(file, b'', -1, -1, 0x1000)",
}
SOURCE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
file = os.open({path!r}, os.O_RDONLY)
ctypes.get_errno() if {call} else 0
"""


@pytest.fixture
def own_file() -> Iterator[Path]:
    """A file of the user that cells are."""
    here = Path(tempfile.mkdtemp())
    here.chmod(0o755)
    file = here / "file"
    file.write_text("")
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    yield file
    shutil.rmtree(here)


@pytest.mark.parametrize("call", CALLS)
def test_a_change_of_an_open_file_by_an_empty_name(supervisor: pyisolate.Supervisor, own_file: Path, call: str) -> None:
    if call == "fchmodat2":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(FCHMODAT2, -1, b"", 0, 0x1000)
        require("fchmodat2", ctypes.get_errno() != errno.ENOSYS, "Linux is older than 6.6")
    policy = Policy.preset("compute").allow_native("ctypes").allow_import("ctypes").allow_read(str(own_file))
    source = SOURCE.format(path=str(own_file), call=CALLS[call])
    with supervisor.spawn("reads", policy) as sandbox:
        assert sandbox.exec(source).value != 0
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.syscall) == ("fs.metadata", str(own_file), call)
    with supervisor.spawn("changes", policy.allow_write(str(own_file))) as sandbox:
        assert sandbox.exec(source).value == 0
        assert not sandbox.get_denial_events()
