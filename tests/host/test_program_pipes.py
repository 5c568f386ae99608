"""The pipes between the host and the guest's thread that attends to programs, in the hands of a hostile guest."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate.cell.wire import PROGRAM_REPORT, SIGNALLED
from pyisolate.sandbox import process as of_cell
from pyisolate.sandbox import running

pytestmark = [pytest.mark.usefixtures("kept_supervisor"), pytest.mark.once]

#: The pipes of the one program that runs: of its own ends the guest keeps none.
PIPES = """
import fcntl, os, stat
def pipe(access):
    for one in range(3, 200):
        try:
            if stat.S_ISFIFO(os.fstat(one).st_mode) and fcntl.fcntl(one, fcntl.F_GETFL) & 3 == access:
                return one
        except OSError:
            pass
    raise LookupError('no such pipe')
"""
REPORT, ORDERS = "pipe(os.O_WRONLY)", "pipe(os.O_RDONLY)"
LOST = "let go of a program"


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[pyisolate.Sandbox]:
    monkeypatch.setattr(running, "_KILL_GRACE_S", 0.1)
    monkeypatch.setattr(of_cell, "_LOST_TIMEOUT_S", 0.1)
    policy = pyisolate.Policy.preset("compute").allow_exec(shutil.which("sleep") or "")
    with supervisor.spawn("hostile", policy.with_limits(wall="20s")) as made:
        made.exec(PIPES)
        yield made


@pytest.mark.parametrize("attack", [f"os.write({REPORT}, b'x')", f"os.close({REPORT})"], ids=["half", "end"])
def test_what_is_no_report_ends_the_sandbox(sandbox: pyisolate.Sandbox, attack: str) -> None:
    assert sandbox.popen(["sleep", "0"]).wait(10) == 0  # the control
    process = sandbox.popen(["sleep", "60"])
    with contextlib.suppress(pyisolate.SandboxClosed):  # it may end before it answers
        sandbox.exec(attack)
    with pytest.raises(pyisolate.SandboxClosed, match=LOST):
        process.wait(10)
    assert (process.returncode, sandbox.closed) == (-9, True)


def test_reports_of_signals_that_nobody_sent_are_charged_and_mean_nothing(sandbox: pyisolate.Sandbox) -> None:
    process = sandbox.popen(["sleep", "60"])
    before, count = sandbox.stats.host_cpu_s, 20_000
    sandbox.exec(f"os.write({REPORT}, {PROGRAM_REPORT.pack(SIGNALLED)!r} * {count})")
    deadline = time.monotonic() + 10
    while sandbox.stats.host_cpu_s - before < count * 1e-6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sandbox.stats.host_cpu_s - before >= count * 1e-6
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == -15


def test_a_guest_that_obeys_no_order_to_kill_ends_with_its_program(sandbox: pyisolate.Sandbox) -> None:
    sandbox.reload_policy(sandbox.policy.with_limits(wall="300ms"))
    process = sandbox.popen(["sleep", "60"])
    sandbox.exec(f"os.close({ORDERS})")
    with pytest.raises(pyisolate.TimeoutError, match="'sleep' was killed"):
        process.wait(10)
    with pytest.raises(pyisolate.SandboxClosed, match="did not end when its time was up"):
        sandbox.exec("")
