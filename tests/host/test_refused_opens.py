"""What opens of files leave in enforce mode: an event of each that was refused, and none of what Linux let through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

BASE = with_ctypes().with_name("opens")


@pytest.fixture
def ground() -> Iterator[Path]:
    """Lend a directory that other users reach, with a file."""
    here = Path("/tmp") / f"pyisolate-opens-{os.urandom(6).hex()}"
    here.mkdir(mode=0o755)
    (here / "one").write_text("1")
    yield here
    (here / "one").unlink()
    here.rmdir()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names x86-64's system call")
@pytest.mark.parametrize("by", ["native", "interpreter"])
def test_an_open_for_neither_reading_nor_writing_succeeds_and_is_no_denial(
    supervisor: pyisolate.Supervisor, ground: Path, by: str
) -> None:
    """Access mode 3: a descriptor for ioctl(2) alone, which Linux gives of what may be seen."""
    file = str(ground / "one")
    os.chmod(file, 0o666)  # Linux asks the file's own mode for both
    native = "import ctypes\npost(ctypes.CDLL(None).syscall(257, -100, {!r}.encode(), {}) >= 0)"
    guest = "import os\ntry:\n    post(os.open({!r}, {}) >= 0)\nexcept PermissionError:\n    post(False)"
    code = {"native": native, "interpreter": guest}[by]
    with supervisor.spawn("neither", with_ctypes(BASE.allow_read(ground))) as sandbox:
        for mode, wanted in ((3, True), (2, False)):  # the second is the control
            sandbox.exec(code.format(file, mode))
            assert sandbox.recv(timeout=30) is wanted
            events = sandbox.get_denial_events()
            assert [(event.capability, event.target) for event in events] == [("fs.write", file)] * (not wanted)


def test_a_device_in_a_grant_is_refused_to_all_code_with_an_event_that_says_so(
    supervisor: pyisolate.Supervisor, ground: Path
) -> None:
    require("root", os.geteuid() == 0, "only root can make a device node")
    node = ground / "node"
    os.mknod(node, 0o020666, os.makedev(1, 3))
    node.chmod(0o666)
    native = "import ctypes\npost(ctypes.CDLL(None).open({!r}.encode(), 0) >= 0)"
    try:
        with supervisor.spawn("device", with_ctypes(BASE.allow_read(ground))) as sandbox:
            sandbox.exec(native.format(str(ground / "one")))  # the control
            assert sandbox.recv(timeout=30)
            assert not sandbox.get_denial_events()
            sandbox.exec(native.format(str(node)))
            assert not sandbox.recv(timeout=30)
            (by_native,) = sandbox.get_denial_events()
            with pytest.raises(pyisolate.PolicyError, match="no device"):
                sandbox.exec(f"open({str(node)!r})")
            (_, by_guest) = sandbox.get_denial_events()
    finally:
        node.unlink()
    for event in (by_native, by_guest):
        assert (event.capability, event.target, event.kernel_decision) == ("fs.read", str(node), "deny")
        assert (event.kernel_enforcer, event.suggestion) == ("root view", None)
    assert by_native.broker_decision == "not_consulted"


def test_a_name_of_an_own_descriptor_opened_for_more_is_a_denial_of_its_file(
    supervisor: pyisolate.Supervisor, ground: Path
) -> None:
    file = ground / "one"
    file.chmod(0o666)
    code = (
        f"import ctypes\nlibc = ctypes.CDLL(None)\nheld = libc.open({str(file)!r}.encode(), 0)\n"
        "post([libc.open(b'/dev/fd/%d' % held, mode) >= 0 for mode in (0, 1)])"
    )
    with supervisor.spawn("descriptor", BASE.allow_read(ground)) as sandbox:
        sandbox.exec(code)
        assert sandbox.recv(timeout=30) == [True, False]  # the first is the control
        (event,) = sandbox.get_denial_events()
    # no rule gives the descriptor a right that it has not: the file has to be opened by its own name
    assert (event.capability, event.target, event.suggestion) == ("fs.write", str(file), None)
    with supervisor.spawn("granted", BASE.allow_read(ground).allow_write(file)) as sandbox:
        sandbox.exec(code)
        assert sandbox.recv(timeout=30) == [True, False]
        assert sandbox.get_denial_events() == []  # nothing that the policy withholds
