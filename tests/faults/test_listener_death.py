"""The notification listener stops deciding: calls that it would decide fail, and nobody gets a sandbox without it."""

from __future__ import annotations

import errno
import os
import threading

import pytest

import pyisolate
from pyisolate.native import notify as native
from tests import inside
from tests.faults.test_killed_zygote import spawn_some
from tests.foreign_functions import with_ctypes
from tests.require import require

pytestmark = pytest.mark.at_its_end

ASK = (
    "import ctypes\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "def unshare():\n"
    "    return [libc.unshare(0x10000000), ctypes.get_errno()]\n"
)


#: A cell that was being confined when the listener ended got ENOSYS: the spawn fails by that.
ENDED = "listener|Function not implemented"


@pytest.fixture
def listening(supervisor: pyisolate.Supervisor) -> pyisolate.Supervisor:
    require("seccomp", inside.plan(supervisor).listener is not None, "no notification listener here")
    return supervisor


def test_a_listener_that_is_closed_refuses_everything(listening: pyisolate.Supervisor) -> None:
    with listening.spawn("left alone", with_ctypes()) as sandbox:
        sandbox.exec(ASK)
        assert sandbox.eval("unshare()") == [-1, errno.EPERM]  # the control: decided and recorded
        inside.plan(listening).listener.close()
        assert sandbox.eval("unshare()") == [-1, errno.ENOSYS]  # seccomp(2): nobody listens
        assert sandbox.eval("1 + 1") == 2


def test_no_sandbox_is_handed_out_without_a_listener(listening: pyisolate.Supervisor) -> None:
    with listening.spawn("before") as sandbox:
        assert sandbox.eval("1") == 1
    inside.plan(listening).listener.close()
    with pytest.raises(pyisolate.SandboxError, match=ENDED):
        spawn_some(listening)


def break_loop(listener: native.Listener) -> None:
    """End the listener's thread from outside: no descriptor has the number that it waits on next (EBADF).

    Its table is its own, so the number is changed where it has it: `struct notify_listener` begins with it.
    """
    numbers = native.ffi.cast("int *", listener._handle)
    where = numbers[6]
    opened = [f"/proc/self/task/{task}/fd/{where}" for task in os.listdir("/proc/self/task")]
    assert "anon_inode:[eventpoll]" in [os.readlink(name) for name in opened if os.path.lexists(name)]
    numbers[6] = -1
    listener.answer(1, allow=False)  # wakes it


def test_a_loop_that_ends_by_itself_leaves_nobody_waiting(listening: pyisolate.Supervisor) -> None:
    with listening.spawn("asks", with_ctypes().with_limits(wall="10s")) as sandbox:
        sandbox.exec(ASK)
        assert sandbox.eval("unshare()") == [-1, errno.EPERM]  # the control
        break_loop(inside.plan(listening).listener._native)
        answers = [sandbox.eval("unshare()") for _ in range(3)]  # the first may still be decided: it ends the wait
        assert answers[-1] == [-1, errno.ENOSYS]
        assert not inside.plan(listening).listener.alive
        with pytest.raises(pyisolate.SandboxError, match=ENDED):
            spawn_some(listening)
        assert sandbox.eval("1 + 1") == 2


def test_threads_that_ask_while_the_listener_closes_all_get_an_answer(listening: pyisolate.Supervisor) -> None:
    policy = with_ctypes().with_limits(wall="60s")

    def close() -> None:
        assert sandbox.recv(timeout=15) == "asked"
        inside.plan(listening).listener.close()

    with listening.spawn("asks", policy) as sandbox:
        sandbox.exec(ASK)
        closer = threading.Thread(target=close)
        closer.start()
        seen = sandbox.exec(
            "import time, threading\n"
            "found = set()\n"
            "def ask():\n"
            "    end = time.monotonic() + 20\n"
            "    while time.monotonic() < end and len(found) < 2: found.add(tuple(unshare()))\n"
            "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
            "[t.start() for t in threads]\n"
            "while not found: time.sleep(0.01)\n"
            "post('asked')\n"
            "[t.join() for t in threads]\n"
            "sorted(found)"
        ).value
        closer.join()
        assert [result for result, _ in seen] == [-1] * len(seen)
        assert {number for _, number in seen} == {errno.EPERM, errno.ENOSYS}
