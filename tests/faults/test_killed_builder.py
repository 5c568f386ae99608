"""kill -9 of the root view builder and of its workers at random instants: once is forgiven, then it is told of."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside, leaks


def builder_of(supervisor: pyisolate.Supervisor) -> int | None:
    process = inside.plan(supervisor).builder._process
    return None if process is None else process.pid


def policies(directory: Path, count: int) -> list[Policy]:
    """Return policies that need a view each."""
    made = []
    for number in range(count):
        path = directory / f"d{time.monotonic_ns()}-{number}"
        path.mkdir()
        made.append(Policy.preset("compute").allow_read(str(path)))
    return made


@pytest.mark.timeout(240)
def test_builders_die_at_random(supervisor: pyisolate.Supervisor, chance: random.Random, data: Path) -> None:
    kill_builders(supervisor, chance, data, 20)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_hundreds_of_builders_die_at_random(
    supervisor: pyisolate.Supervisor, chance: random.Random, data: Path, soak_seconds: float
) -> None:
    deadline = time.monotonic() + soak_seconds
    while time.monotonic() < deadline:
        kill_builders(supervisor, chance, data, 50)


def kill_builders(supervisor: pyisolate.Supervisor, chance: random.Random, data: Path, times: int) -> None:
    if inside.plan(supervisor).bpf.decides:
        pytest.skip("BPF-LSM decides files here: there is no root view")
    stop, killed = threading.Event(), []
    outcomes = {"well": 0, "told": 0}

    def kill() -> None:
        while not stop.is_set():
            seen = outcomes["well"]
            while len(killed) % 4 == 0 and outcomes["well"] == seen and not stop.is_set():
                time.sleep(0.01)  # on a busy machine a builder takes longer to start than it is left alone below
            time.sleep(chance.random() * 0.3)
            pid = builder_of(supervisor)
            if pid is not None:
                victims = [pid, *leaks.children_of(pid)]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for policy in policies(data, 1000):
            try:
                with supervisor.spawn("viewed", policy) as sandbox:
                    assert sandbox.eval("1") == 1
                outcomes["well"] += 1
            except pyisolate.EnforcementError as error:
                outcomes["told" if "root view" in str(error) else str(error)] = outcomes["told"] + 1
            if len(killed) >= times:
                break
    finally:
        stop.set()
        killer.join()
    assert outcomes["well"] > 0
    assert set(outcomes) == {"well", "told"}
    assert len(killed) >= 10
    with contextlib.suppress(pyisolate.EnforcementError):  # of the last that was killed, perhaps
        supervisor.spawn("last", policies(data, 1)[0]).close()
    with supervisor.spawn("after", Policy.preset("compute").allow_read(str(data))) as sandbox:
        assert sandbox.eval("1") == 1


def test_a_builder_that_is_stopped_does_not_hang_for_ever(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if inside.plan(supervisor).bpf.decides:
        pytest.skip("BPF-LSM decides files here: there is no root view")
    pid = builder_of(supervisor)
    assert pid is not None
    for patience in ("_ANSWER_TIMEOUT_S", "_FORKER_TIMEOUT_S"):
        monkeypatch.setattr(f"pyisolate.kernel.rootview.view.{patience}", 1.0)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    # Its successor answers.
    with supervisor.spawn("viewed", Policy.preset("none")) as sandbox:
        assert sandbox is not None
    assert time.monotonic() - started < 10
