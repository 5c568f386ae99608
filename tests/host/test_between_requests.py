"""`limits.between_requests: freeze`: what a guest left running stands still until the next request."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")


COUNTS = """
import threading
count = [0]
def run():
    while True: count[0] += 1
threading.Thread(target=run, daemon=True).start()
"""
FREEZE = Policy.preset("compute").with_limits(between_requests="freeze")


@pytest.fixture(autouse=True)
def freezer(supervisor: pyisolate.Supervisor) -> None:
    tree = inside.cgroups(supervisor)
    require("cgroup", tree is not None and tree.can_freeze, "no control groups that can be frozen")


def cpu_s(sandbox: pyisolate.Sandbox) -> float:
    return sandbox.stats.cpu_s


def rested(sandbox: pyisolate.Sandbox) -> float:
    """Processor seconds that the guest takes in a rest of 0.2 s."""
    time.sleep(0.05)
    before = cpu_s(sandbox)
    time.sleep(0.2)
    return cpu_s(sandbox) - before


def works(sandbox: pyisolate.Sandbox) -> bool:
    """Tell whether the guest takes the processor: on a busy machine its turn comes late."""
    before, end = cpu_s(sandbox), time.monotonic() + 10
    while cpu_s(sandbox) - before < 0.005 and time.monotonic() < end:
        time.sleep(0.01)
    return cpu_s(sandbox) - before >= 0.005


def stands_still(sandbox: pyisolate.Sandbox, *, freezes: bool) -> bool:
    """Tell whether the guest rests; looked at for as long as the answer that is awaited needs."""
    return rested(sandbox) < 0.005 if freezes else not works(sandbox)


@pytest.mark.parametrize("freezes", [False, True])
def test_threads_stand_still_between_requests(supervisor: pyisolate.Supervisor, freezes: bool) -> None:
    with supervisor.spawn("rests", FREEZE if freezes else "compute") as sandbox:
        sandbox.exec(COUNTS)
        assert stands_still(sandbox, freezes=freezes) is freezes
        first = sandbox.eval("count[0]")
        time.sleep(0.05)
        sandbox.exec("import time; time.sleep(0.05)")
        assert sandbox.eval("count[0]") > first
        assert stands_still(sandbox, freezes=freezes) is freezes


def test_after_an_error_and_an_interrupt(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("rests", FREEZE) as sandbox:
        sandbox.exec(COUNTS)
        with pytest.raises(pyisolate.GuestError):
            sandbox.exec("1 / 0")
        assert rested(sandbox) < 0.005
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("while True: pass", timeout=0.1)
        assert rested(sandbox) < 0.005
        assert sandbox.eval("1 + 1") == 2


def test_messages_wait_for_the_next_request(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("rests", FREEZE) as sandbox:
        sandbox.exec("import threading\nthreading.Thread(target=lambda: post(recv()), daemon=True).start()")
        sandbox.post("waits")
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.recv(timeout=0.1)
        sandbox.exec("import time; time.sleep(0.2)")
        assert sandbox.recv(timeout=5) == "waits"


def test_a_reload_reaches_a_guest_at_rest(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("rests", FREEZE) as sandbox:
        sandbox.exec(COUNTS)
        supervisor.reload_policy("compute", Policy.preset("compute"))
        assert works(sandbox)
        supervisor.reload_policy("compute", FREEZE)
        assert rested(sandbox) < 0.005
        assert sandbox.eval("1 + 1") == 2


def test_one_at_rest_can_be_ended(supervisor: pyisolate.Supervisor) -> None:
    for end in (lambda one: one.close(), lambda one: os.kill(one.init_pid, signal.SIGKILL)):
        with supervisor.spawn("rests", FREEZE) as sandbox:
            sandbox.exec(COUNTS)
            end(sandbox)
    with supervisor.spawn("after", FREEZE) as sandbox:  # perhaps in a group that was frozen
        assert sandbox.eval("1 + 1") == 2


def test_a_thread_cannot_be_stopped(supervisor: pyisolate.Supervisor) -> None:
    held = {"memory": None, "processes": None, "open_files": None, "file_size": None}
    with pytest.raises(pyisolate.EnforcementError, match=r"limits\.between_requests: freeze"):
        supervisor.spawn("thread", isolation="thread", limits={**held, "between_requests": "freeze"})


def test_a_guest_runs_on_while_programs_do_and_stands_still_after_the_last(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("still", FREEZE.allow_exec(shutil.which("cat") or "")) as sandbox:
        sandbox.exec(COUNTS)
        assert rested(sandbox) < 0.005
        first, last = (sandbox.popen(["cat"], stdin=subprocess.PIPE) for _ in range(2))
        assert first.communicate(b"x", timeout=20) == (b"x", b"")
        assert works(sandbox)
        assert last.communicate(b"x", timeout=20) == (b"x", b"")
        assert rested(sandbox) < 0.005
        assert sandbox.eval("1") == 1
