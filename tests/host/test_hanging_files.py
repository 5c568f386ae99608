"""A guest's file on a file system whose server does not answer: it holds up nobody else, and ends with its sandbox."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from tests.foreign_functions import with_ctypes
from tests.fuse import Hanging, hanging
from tests.programs import compute_with
from tests.require import require

pytestmark = pytest.mark.once  # FUSE is root's

_SOCKETS = "import socket\none, two = socket.socketpair()\n"
_SENT = (
    _SOCKETS
    + """
file = open({path!r}, "rb")
def hands_over():
    socket.send_fds(one, [b"x"], [file.fileno()])
    return "handed over"
"""
)


def _place() -> Iterator[Path]:
    place = Path("/var/tmp") / f"pyisolate-fuse-{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        place.rmdir()


place = pytest.fixture(_place)


class _Call(threading.Thread):
    """A request of a sandbox, which may not end."""

    def __init__(self, sandbox: pyisolate.Sandbox, source: str) -> None:
        super().__init__()
        self._sandbox, self._source = sandbox, source
        self.value: object = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(pyisolate.SandboxError):  # it was closed
            self.value = self._sandbox.eval(self._source)


@contextlib.contextmanager
def handing_over(
    supervisor: pyisolate.Supervisor, hangs: Hanging, way: str
) -> Iterator[tuple[pyisolate.Sandbox, _Call]]:
    """A sandbox in a call by which the supervisor gets, and closes, a descriptor of the file."""
    policy = (compute_with("bash", "cat") if way == "opened" else with_ctypes()).allow_read(str(hangs.file))
    sandbox = supervisor.spawn("hangs", policy)
    if way == "opened":
        sandbox.exec(
            "import os, subprocess\n"
            f"file = os.open({str(hangs.file)!r}, os.O_RDONLY)\n"
            "def hands_over():\n"
            "    command = ['bash', '-c', f'exec 9< /dev/fd/{file}; kill -STOP $$']\n"
            "    subprocess.run(command, pass_fds=[file])\n"
        )
    else:
        sandbox.exec(_SENT.format(path=str(hangs.file)))
    call = _Call(sandbox, "hands_over()")
    try:
        hangs.wait_asked()
        yield sandbox, call
    finally:
        sandbox.close()
        hangs.answer()
        call.join()


def closers() -> int:
    """How many threads of this process wait for the file system's server."""
    waiting = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            waiting += Path(f"/proc/self/task/{task}/wchan").read_text() == "request_wait_answer"  # fs/fuse/dev.c
    return waiting


def test_the_calls_of_a_sandbox_wait_while_much_of_it_is_to_be_closed_and_go_on_after(place: Path) -> None:
    """More than NOTIFY_LEFT_OF_ONE: its next call is not received until there are fewer."""
    many = (
        "import threading\n"
        "def hands_over():\n"
        "    message = (one, [b'x'], [file.fileno()] * 50)\n"
        "    threads = [threading.Thread(target=socket.send_fds, args=message) for _ in range(4)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "    return b''.join(two.recv(1) for _ in threads)\n"
    )
    with hanging(place, "flush") as hangs, pyisolate.Supervisor(pool_size=1) as supervisor:
        require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
        policy = Policy.preset("compute").with_limits(open_files=1000, processes=64).allow_read(str(hangs.file))
        with supervisor.spawn("hangs", policy) as sandbox, supervisor.spawn("other") as other:
            sandbox.exec(_SENT.format(path=str(hangs.file)) + many)
            other.exec(_SOCKETS)
            call = _Call(sandbox, "hands_over()")
            hangs.wait_asked()
            assert [other.eval("one.sendmsg([b'x'])") for _ in range(100)] == [1] * 100
            assert call.is_alive()
            hangs.answer()
            call.join()
            assert call.value == b"xxxx"
            assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("way", ["sent", "opened"])
def test_what_the_listener_closes_for_a_guest_holds_up_no_other(place: Path, way: str) -> None:
    with hanging(place, "flush") as hangs, pyisolate.Supervisor(pool_size=1) as supervisor:
        require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
        other = supervisor.spawn("other")
        other.exec(_SOCKETS)
        with handing_over(supervisor, hangs, way) as (_, call):
            assert closers()
            assert other.eval("one.sendmsg([b'x'])") == 1  # which the listener does
            assert other.eval("socket.send_fds(one, [b'x'], [two.fileno()])") == 1  # and is closed for another one
            with supervisor.spawn("new") as new:
                assert new.eval("1") == 1
            other.close()
            assert call.is_alive() or way == "opened"


def test_a_server_that_answers_is_the_control(place: Path) -> None:
    with hanging(place, "flush") as hangs, pyisolate.Supervisor(pool_size=1) as supervisor:
        require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
        with handing_over(supervisor, hangs, "sent") as (sandbox, call):
            hangs.answer()
            call.join()
            assert call.value == "handed over"
            assert sandbox.eval("hands_over()") == "handed over"
            assert not closers()


def test_a_supervisor_ends_while_a_file_system_does_not_answer(place: Path) -> None:
    with hanging(place, "flush") as hangs:
        with pyisolate.Supervisor(pool_size=1) as supervisor:
            require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
            endless = Policy.preset("compute").with_limits(wall=None).allow_read(str(hangs.file))
            sandbox = supervisor.spawn("hangs", endless)
            sandbox.exec(_SENT.format(path=str(hangs.file)))
            call = _Call(sandbox, "hands_over()")
            hangs.wait_asked()
            sandbox.close()
            call.join(60)
            assert not call.is_alive()  # its cell has not ended: it closes the file, too
        assert closers()
        hangs.answer()
    with pyisolate.Supervisor(pool_size=1) as after, after.spawn("sweeps") as sandbox:  # what was left of groups
        assert sandbox.eval("1") == 1
