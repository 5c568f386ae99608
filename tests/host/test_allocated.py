"""Room that is asked for at once (fallocate): what finds none has met a limit, though nothing is full after it."""

from __future__ import annotations

import errno

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes

pytestmark = pytest.mark.usefixtures("kept_supervisor")

BASE = with_ctypes().with_name("allocated").with_workspace("1MiB")
#: Each posts the error of allocating so many bytes.
BY = {
    "interpreter": """
def allocate(file, size):
    try:
        os.posix_fallocate(file, 0, size)
        return 0
    except OSError as error:
        return error.errno
""",
    "native": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def allocate(file, size):
    return ctypes.get_errno() if libc.fallocate(file, 0, ctypes.c_long(0), ctypes.c_long(size)) else 0
""",
    "posix": """
import ctypes
def allocate(file, size):
    return ctypes.CDLL(None).posix_fallocate64(file, ctypes.c_long(0), ctypes.c_long(size))
""",
}


@pytest.mark.parametrize("by", list(BY))
@pytest.mark.parametrize(
    ("limits", "limit", "allowed"), [({}, "workspace", 1 << 20), ({"disk": "512KiB"}, "disk", 512 << 10)]
)
def test_what_finds_no_room_is_an_event_though_it_was_caught(
    supervisor: pyisolate.Supervisor, by: str, limits: dict[str, str], limit: str, allowed: int
) -> None:
    source = f"import os\n{BY[by]}\nfile = os.open('file', os.O_RDWR | os.O_CREAT)\npost(allocate(file, SIZE))"
    with supervisor.spawn("caught", BASE.with_limits(**limits)) as sandbox:
        sandbox.exec(source.replace("SIZE", str(allowed // 2)))  # the control
        assert sandbox.recv(timeout=30) == 0
        assert sandbox.get_denial_events() == []
        sandbox.exec(source.replace("SIZE", str(allowed * 2)))
        assert sandbox.recv(timeout=30) == errno.ENOSPC
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target, event.count) == (f"limit.{limit}", f"{allowed} bytes", 1)
    assert (event.code, event.kernel_errno, event.suggestion) == ("LIMIT_EXCEEDED", errno.ENOSPC, None)
    assert event.reported_by == "guest"  # its C library's word
    assert sandbox.stats.denials == 1


@pytest.mark.parametrize(
    ("limits", "kind"), [({}, pyisolate.WorkspaceExceeded), ({"disk": "512KiB"}, pyisolate.DiskExceeded)]
)
def test_what_finds_no_room_and_is_not_caught_raises_the_limit(
    supervisor: pyisolate.Supervisor, limits: dict[str, str], kind: type[pyisolate.LimitExceeded]
) -> None:
    source = "import os\nos.posix_fallocate(os.open('file', os.O_RDWR | os.O_CREAT), 0, 8 << 20)"
    with supervisor.spawn("uncaught", BASE.with_limits(**limits)) as sandbox:
        with pytest.raises(kind, match="at once found no room") as caught:
            sandbox.exec(source)
        (event,) = sandbox.get_denial_events()
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.event_id == event.event_id
        with pytest.raises(pyisolate.GuestError, match="No space"):  # the control: the guest's own words are no limit
            sandbox.exec("raise OSError(28, 'No space left on device')")
        assert len(sandbox.get_denial_events()) == 1
