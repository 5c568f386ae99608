"""kill -9 of cells at random instants, warm, being handed out, and at work: an error that says so, nothing else."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import threading
import time

import pytest

import pyisolate
from tests import inside

#: A request that takes longer was forgotten by somebody (seconds); nothing in it takes a hundredth.
TOO_LONG_S = 8.0


class Load:
    """Threads that spawn, run, post and close, and note how each round ended."""

    def __init__(self, supervisor: pyisolate.Supervisor, threads: int = 4) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        self.unexpected: list[BaseException] = []
        self.slowest_s = 0.0
        self._supervisor, self._stop = supervisor, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "a request never came back"

    def wait_until_well(self, beyond: int) -> None:
        """Wait until more than `beyond` rounds have ended well."""
        until = time.monotonic() + 60
        while self.ended["well"] <= beyond and time.monotonic() < until:
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._round()
                self.ended["well"] += 1
            except pyisolate.SandboxDied as error:
                self.ended["died"] += 1
                if error.signal not in (signal.SIGKILL, None):
                    self.unexpected.append(error)
            except Exception as error:
                self.unexpected.append(error)
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def _round(self) -> None:
        with self._supervisor.spawn("round") as sandbox:
            sandbox.post({"n": 1})
            assert sandbox.exec("recv(timeout=5)['n'] + 1").value == 2
            with contextlib.suppress(pyisolate.PolicyError):
                sandbox.exec("open('/etc/shadow')")
            assert sandbox.exec("print('x' * 5000)").stdout == "x" * 5000 + "\n"


def kill_cells(supervisor: pyisolate.Supervisor, chance: random.Random, times: int) -> None:
    with Load(supervisor) as load:
        killed = 0
        while killed < times:
            time.sleep(chance.random() * 0.02)
            living = [cell.pid for cell in inside.pool(supervisor).stock.living()]  # warm, being warmed and handed out
            if living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(living), signal.SIGKILL)
                    killed += 1
    assert not load.unexpected, load.unexpected[:3]
    assert load.ended["died"] > times // 20
    assert load.ended["well"] > 0
    assert load.slowest_s < TOO_LONG_S
    with supervisor.spawn("after") as sandbox:
        assert sandbox.eval("1 + 1") == 2
    nothing_is_kept(supervisor)


def nothing_is_kept(supervisor: pyisolate.Supervisor) -> None:
    """Only the warm cells of the pool may still have a place in any table."""
    deadline = time.monotonic() + 5
    tree = inside.cgroups(supervisor)
    while True:
        ready, warming = inside.pool(supervisor).stock.counts()
        tables = {
            "cells": len(inside.pool(supervisor).stock.living()),
            "channels": len(inside.runtime(supervisor).started.reactor._channels),
            "control groups": supervisor.diagnostics().leases,
            "listeners": len(inside.plan(supervisor).listener._by_key),
        }
        if tree is None:
            del tables["control groups"]
        else:  # a group is leased, free, or waits for its last process (one at a time is looked at); none is forgotten
            tables["known groups"] = len(tree._all) - len(tree._free) - len(tree._draining)
        if not warming and all(count == ready for count in tables.values()):
            break
        assert time.monotonic() < deadline, (ready, warming, tables)
        time.sleep(0.02)
    assert supervisor.sandboxes == []


def test_hundreds_of_cells_die_at_random(supervisor: pyisolate.Supervisor, chance: random.Random) -> None:
    kill_cells(supervisor, chance, 300)


@pytest.mark.soak
def test_thousands_of_cells_die_at_random(
    supervisor: pyisolate.Supervisor, chance: random.Random, soak_seconds: float
) -> None:
    deadline = time.monotonic() + soak_seconds
    while time.monotonic() < deadline:
        kill_cells(supervisor, chance, 500)


def test_the_error_names_the_signal_and_keeps_the_last_words(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("killed") as sandbox:
        sandbox.exec("import sys; print('the end', file=sys.stderr)")
        threading.Timer(0.2, os.kill, (sandbox.pid, signal.SIGKILL)).start()
        with pytest.raises(pyisolate.SandboxDied) as caught:
            sandbox.exec("while True: pass")
        assert caught.value.signal == signal.SIGKILL
        assert "SIGKILL" in str(caught.value)
        assert "the end" in caught.value.last_words


def test_a_killed_cell_is_no_breach_of_the_protocol(supervisor: pyisolate.Supervisor) -> None:
    exits = supervisor.recorder.metrics.exits
    reasons = ("died", "protocol", "closed")
    before = [exits.value(reason) for reason in reasons]
    with supervisor.spawn("killed") as sandbox:
        os.kill(sandbox.pid, signal.SIGKILL)
        with contextlib.suppress(pyisolate.SandboxDied):  # its death may be known by now
            sandbox.post("unread")
        with pytest.raises(pyisolate.SandboxDied):
            sandbox.exec("1")
    deadline = time.monotonic() + 5

    def counted() -> list[float]:
        return [exits.value(reason) - old for reason, old in zip(reasons, before, strict=True)]

    while not any(counted()) and time.monotonic() < deadline:  # after its caller is told
        time.sleep(0.001)
    assert counted() == [1, 0, 0]


@pytest.mark.parametrize("use", ["1", "recv", "post"])
def test_a_cell_that_died_while_nobody_asked_is_said_to_have_died(supervisor: pyisolate.Supervisor, use: str) -> None:
    with supervisor.spawn("killed") as sandbox:
        sandbox.exec("import sys; print('the end', file=sys.stderr)")
        os.kill(sandbox.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not sandbox.closed and time.monotonic() < deadline:
            time.sleep(0.01)
        calls = {
            "1": lambda: sandbox.exec("1"),
            "recv": lambda: sandbox.recv(timeout=5),
            "post": lambda: sandbox.post(1),
        }
        for _ in range(2):
            with pytest.raises(pyisolate.SandboxDied) as caught:
                calls[use]()
            assert caught.value.signal == signal.SIGKILL
    with pytest.raises(pyisolate.SandboxError):
        sandbox.exec("1")


def test_who_waits_for_a_message_learns_that_none_will_come(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("waited for") as sandbox:
        threading.Timer(0.2, os.kill, (sandbox.pid, signal.SIGKILL)).start()
        started = time.monotonic()
        with pytest.raises(pyisolate.SandboxError):
            sandbox.recv(timeout=20)
        assert time.monotonic() - started < 5
