"""SIGSTOPped cells and zygotes: limits and `kill` still work, and who waits learns why."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside


def test_a_stopped_cell_meets_its_deadline(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("stopped") as sandbox:
        os.kill(sandbox.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("1", timeout=0.5)
        assert time.monotonic() - started < 3


def test_a_stopped_cell_goes_on_where_it_was(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("paused") as sandbox:
        os.kill(sandbox.pid, signal.SIGSTOP)
        threading.Timer(0.4, os.kill, (sandbox.pid, signal.SIGCONT)).start()
        started = time.monotonic()
        assert sandbox.eval("6 * 7", timeout=10) == 42
        assert time.monotonic() - started > 0.3


def test_a_stopped_cell_can_be_closed(supervisor: pyisolate.Supervisor) -> None:
    sandbox = supervisor.spawn("stopped", Policy.preset("compute").allow_fork())
    sandbox.exec("import os, time\nif os.fork() == 0: time.sleep(1000)")
    os.kill(sandbox.pid, signal.SIGSTOP)
    sandbox.close()
    assert inside.cell(sandbox).channel.exited.wait(5)


def post_a_gigabyte(sandbox: pyisolate.Sandbox) -> None:
    for _ in range(1000):
        sandbox.post(b"x" * (1 << 20))


def test_a_host_that_floods_a_stopped_cell_is_told(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("never reads") as sandbox:
        os.kill(sandbox.pid, signal.SIGSTOP)
        with pytest.raises(pyisolate.MessagesExceeded, match="waiting to be read"):
            post_a_gigabyte(sandbox)
        assert sandbox.stats.state == "idle"
        os.kill(sandbox.pid, signal.SIGCONT)
        assert len(sandbox.exec("recv(timeout=5)").value) == 1 << 20


def test_a_warm_cell_that_is_stopped_costs_one_error(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyisolate.supervisor.assign.HANDOUT_TIMEOUT_S", 0.5)
    deadline = time.monotonic() + 5
    while not inside.warm_cells(supervisor) and time.monotonic() < deadline:
        time.sleep(0.01)
    stopped = inside.warm_cells(supervisor)[0]
    os.kill(stopped.pid, signal.SIGSTOP)
    with pytest.raises(pyisolate.SandboxDied, match="did not confine itself"):
        supervisor.spawn("first")
    assert stopped.exited.wait(5)
    with supervisor.spawn("second") as sandbox:
        assert sandbox.eval("1") == 1


def test_a_stopped_zygote_is_told_of_and_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        take = inside.pool(supervisor).take
        monkeypatch.setattr(inside.pool(supervisor), "take", lambda **which: take(1.0, **which))
        with supervisor.spawn("served") as sandbox:
            pid = supervisor.diagnostics().zygote_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            assert sandbox.eval("1") == 1  # who has a cell does not need the zygote
            started = time.monotonic()
            with pytest.raises(pyisolate.SandboxError, match="zygote does not answer"):
                supervisor.spawn("unserved")
            assert time.monotonic() - started < 4
            os.kill(pid, signal.SIGCONT)
        with supervisor.spawn("served again") as sandbox:
            assert sandbox.eval("2") == 2


def test_a_zygote_that_is_slow_serves_a_crowd_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits longer than a cell may take is told only when nobody is served."""
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        take, prepare = inside.pool(supervisor).take, inside.pool(supervisor)._prepare
        monkeypatch.setattr(inside.pool(supervisor), "take", lambda **which: take(1.0, **which))

        def slowly(channel: object) -> None:
            time.sleep(0.3)
            prepare(channel)

        monkeypatch.setattr(inside.pool(supervisor), "_prepare", slowly)
        answers: list[object] = []

        def ask() -> None:
            try:
                with supervisor.spawn("one of a crowd") as sandbox:
                    answers.append(sandbox.eval("1"))
            except pyisolate.SandboxError as error:
                answers.append(error)

        crowd = [threading.Thread(target=ask) for _ in range(8)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
    assert answers == [1] * 8


def test_a_supervisor_with_a_stopped_zygote_closes() -> None:
    with pyisolate.Supervisor(pool_size=2) as supervisor:
        supervisor.spawn("open")
        os.kill(supervisor.diagnostics().zygote_pid, signal.SIGSTOP)
        started = time.monotonic()
    assert time.monotonic() - started < 10
