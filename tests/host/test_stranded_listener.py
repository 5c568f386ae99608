"""A guest holds a lock that its own call takes: a thread of the listener is stranded in it, another serves the rest.

What holds the lock is a page of the guest's that a file system's server does not give: as a walk over its memory does.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes
from tests.fuse import Hanging, hanging
from tests.require import require
from tests.waiting import until

pytestmark = pytest.mark.once  # FUSE is root's

_PAGE = """
import ctypes, mmap, os, select, socket, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
file = open({path!r}, "rb")
two = socket.socketpair()
writable, end = mmap.PROT_READ | mmap.PROT_WRITE, ctypes.c_long(0)
held = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), writable, mmap.MAP_PRIVATE, file.fileno(), end))
"""
#: What holds a lock, then the call that takes it.
_WAYS = {
    "memory": "def holds(): pass\ndef asks(): return libc.syscall({openat}, -100, held, 0, 0)\n",
    "epoll": (
        "made, ready = select.epoll(), os.pipe()\n"
        "os.write(ready[1], b'x')\n"
        "made.register(ready[0], select.EPOLLIN)\n"
        "def holds(): libc.epoll_wait(made.fileno(), held, 1, -1)\n"
        "def asks(): return libc.syscall({openat}, -100, b'/dev/fd/%d' % made.fileno(), 1, 0)\n"
    ),
}
_OPENAT = {"x86_64": 257, "aarch64": 56}[os.uname().machine]
_OTHER = "import ctypes, socket\nlibc = ctypes.CDLL(None, use_errno=True)\none, two = socket.socketpair()\n"


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


def place_of() -> Iterator[Path]:
    place = Path("/var/tmp") / f"pyisolate-stranded-{os.getpid()}"
    place.mkdir()
    try:
        yield place
        with pyisolate.spawn("sweeps") as sandbox:  # groups of guests that had not died when their supervisor ended
            assert sandbox.eval("1") == 1
    finally:
        place.rmdir()


place = pytest.fixture(place_of)


def _asleep() -> int:
    """How many threads of this process wait for what no signal ends."""
    asleep = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            stat = Path(f"/proc/self/task/{task}/stat").read_text()
            asleep += stat.rpartition(")")[2].split()[0] == "D"
    return asleep


@contextlib.contextmanager
def _stranded(supervisor: pyisolate.Supervisor, hangs: Hanging, way: str) -> Iterator[tuple[pyisolate.Sandbox, _Call]]:
    """A sandbox in a call in which a thread of the listener is stranded."""
    policy = with_ctypes().allow_read(str(hangs.file)).allow_connect("127.0.0.1:9")
    sandbox = supervisor.spawn("stranding", policy)
    sandbox.exec(_PAGE.format(path=str(hangs.file)) + _WAYS[way].format(openat=_OPENAT))
    sandbox.exec("holding = threading.Thread(target=holds)\nholding.start()\n")
    if way != "memory":
        hangs.wait_asked()
    call = _Call(sandbox, "asks()")
    try:
        if way == "memory":
            hangs.wait_asked()
        else:
            until(_asleep)
        yield sandbox, call
    finally:
        sandbox.close()
        hangs.answer()
        call.join()


@pytest.mark.parametrize("way", list(_WAYS))
def test_no_other_sandbox_waits_for_a_lock_that_a_guest_holds(place: Path, way: str) -> None:
    with hanging(place, "read") as hangs, pyisolate.Supervisor(pool_size=1) as supervisor:
        require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
        other = supervisor.spawn("other", with_ctypes())
        other.exec(_OTHER)
        with _stranded(supervisor, hangs, way) as (sandbox, call):
            served = _Call(other, "[one.sendmsg([b'x']) for _ in range(200)]")
            served.join(30)
            assert served.value == [1] * 200
            refused = _Call(other, "libc.open(b'/etc/shadow', 0)")
            refused.join(30)
            assert refused.value == -1
            assert [event.target for event in other.get_denial_events()] == ["/etc/shadow"]
            with supervisor.spawn("new") as new:
                assert new.eval("1") == 1
            assert call.is_alive()
            hangs.answer()
            call.join(30)
            assert not call.is_alive()
            assert sandbox.eval("two[0].sendmsg([b'x'])") == 1  # it is served as before
            assert other.eval("one.sendmsg([b'x'])") == 1


def test_a_policy_that_is_replaced_meanwhile_is_the_one_that_decides(place: Path) -> None:
    """The call that a thread is stranded in is given up, with EINTR: what was judged before is in force no more."""
    with hanging(place, "read") as hangs, pyisolate.Supervisor(pool_size=1) as supervisor:
        require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
        other = supervisor.spawn("other")
        with _stranded(supervisor, hangs, "memory") as (sandbox, call):
            other.exec("import socket\none, two = socket.socketpair()")
            assert other.eval("one.sendmsg([b'x'])") == 1  # by another thread
            sandbox.reload_policy(with_ctypes().allow_read(str(hangs.file)))  # with one grant less
            hangs.answer()
            call.join(30)
            assert call.value == -1
            assert sandbox.eval("ctypes.get_errno()") == 4


def test_a_sandbox_and_a_supervisor_end_while_a_thread_is_stranded(place: Path) -> None:
    with hanging(place, "read") as hangs:
        with pyisolate.Supervisor(pool_size=1) as supervisor:
            require("listener", supervisor.diagnostics().listener, "no listener takes descriptors here")
            sandbox = supervisor.spawn("stranding", with_ctypes().allow_read(str(hangs.file)))
            sandbox.exec(_PAGE.format(path=str(hangs.file)) + _WAYS["memory"].format(openat=_OPENAT))
            call = _Call(sandbox, "asks()")
            hangs.wait_asked()
            sandbox.close()
            with supervisor.spawn("other", with_ctypes()) as other:
                other.exec(_OTHER)
                assert other.eval("one.sendmsg([b'x'])") == 1
        hangs.answer()
        call.join()
    with pyisolate.spawn("after") as sandbox:
        assert sandbox.eval("1") == 1
