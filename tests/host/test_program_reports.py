"""What a guest says of a program of `popen`, on a pipe that it can write to as it likes: true, false, or nothing."""

from __future__ import annotations

import contextlib
import shutil

import pytest

import pyisolate
from pyisolate import Policy

pytestmark = [pytest.mark.usefixtures("kept_supervisor"), pytest.mark.once]

POLICY = Policy.preset("compute").allow_exec(shutil.which("sleep") or "")
#: the pipes of a program that the guest holds, as they are before and after it is started
PIPES = """
import fcntl, os, stat
def pipes(way):
    found = set()
    for number in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode) and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == way:
                found.add(number)
        except OSError:
            pass
    return found
before = pipes(os.O_WRONLY), pipes(os.O_RDONLY)
"""
FOUND = "[report], [orders] = pipes(os.O_WRONLY) - before[0], pipes(os.O_RDONLY) - before[1]\n"
LIES = (
    "os.write(report, b'x')",
    "os.write(report, b'\\x7f\\xff' * 9)",  # signals that nobody ordered
    "os.write(report, b'\\x01\\x00')",  # no exit status
    "os.close(report)",
)


def started(sandbox: pyisolate.Sandbox, then: str) -> pyisolate.GuestProcess:
    sandbox.exec(PIPES)
    process = sandbox.popen(["sleep", "60"])
    with contextlib.suppress(pyisolate.SandboxError):  # it may be ended before the request is
        sandbox.exec(FOUND + then)
    return process


def test_a_guest_that_reports_what_may_not_come_is_ended(supervisor: pyisolate.Supervisor) -> None:
    with contextlib.ExitStack() as held:
        sandboxes = [held.enter_context(supervisor.spawn("lies", POLICY)) for _ in LIES]
        processes = [started(sandbox, lie) for sandbox, lie in zip(sandboxes, LIES, strict=True)]
        for sandbox, process in zip(sandboxes, processes, strict=True):
            with pytest.raises(pyisolate.SandboxError, match="its guest let go of a program that popen had started"):
                process.wait(10)
            assert process.returncode == -9
            with pytest.raises(pyisolate.SandboxClosed):
                sandbox.eval("1")


def test_an_end_that_is_reported_is_the_end(supervisor: pyisolate.Supervisor) -> None:
    """A guest may say what it likes of its own program. It is killed then, and its sandbox goes on."""
    with supervisor.spawn("says", POLICY) as sandbox:
        process = started(sandbox, "os.write(report, b'\\x00\\x07')")
        assert process.wait(10) == 7
        process.kill()
        assert sandbox.eval("1 + 1") == 2
        process = sandbox.popen(["sleep", "60"])  # two orders, and as many reports
        process.send_signal(0x11)  # SIGCHLD: sleep goes on
        process.terminate()
        assert process.wait(10) == -15
        assert not sandbox.closed


def test_a_guest_that_obeys_no_order_to_kill_is_ended(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("deaf", POLICY.with_limits(wall="400ms")) as sandbox:
        process = started(sandbox, "os.close(orders)")
        with pytest.raises(pyisolate.TimeoutError, match="'sleep' was killed after"):
            process.wait(10)
        with pytest.raises(pyisolate.SandboxError, match="did not end when its time was up"):
            sandbox.eval("1")
