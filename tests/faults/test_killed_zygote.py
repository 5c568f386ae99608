"""kill -9 of the zygote at random instants: its cells die with it, and the next spawn starts another."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest

import pyisolate
from tests.faults.test_killed_cells import Load, nothing_is_kept


def kill_zygotes(supervisor: pyisolate.Supervisor, chance: random.Random, times: int) -> None:
    with Load(supervisor) as load:
        killed = 0
        while killed < times:
            time.sleep(chance.random() * 0.4)
            pid = supervisor._pool.zygote_pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
    unexpected = [error for error in load.unexpected if "zygote" not in str(error)]
    assert not unexpected, unexpected[:3]
    assert load.ended["well"] > 0
    with supervisor.spawn("after") as sandbox:
        assert sandbox.eval("1 + 1") == 2
    nothing_is_kept(supervisor)


def spawn_some(supervisor: pyisolate.Supervisor) -> None:
    """More than could be warm already."""
    for _ in range(3):
        supervisor.spawn("never").close()


def test_zygotes_die_at_random(supervisor: pyisolate.Supervisor, chance: random.Random) -> None:
    kill_zygotes(supervisor, chance, 20)


@pytest.mark.soak
def test_hundreds_of_zygotes_die_at_random(
    supervisor: pyisolate.Supervisor, chance: random.Random, soak_seconds: float
) -> None:
    deadline = time.monotonic() + soak_seconds
    while time.monotonic() < deadline:
        kill_zygotes(supervisor, chance, 100)


def test_requests_under_way_end_at_once_with_the_reason(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("orphan") as sandbox:
        sandbox.exec("x = 1")
        os.kill(supervisor._pool.zygote_pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(pyisolate.SandboxDied, match="zygote died"):
            sandbox.exec("while True: pass", timeout=20)
        assert time.monotonic() - started < 8


def test_a_zygote_that_dies_again_and_again_is_told_of() -> None:
    # The reason is on the zygote's stderr; here it cannot even be started.
    with pyisolate.Supervisor(pool_size=1) as supervisor:
        settings = supervisor._pool._settings
        os.kill(supervisor._pool.zygote_pid, signal.SIGKILL)
        broken = type(settings)(**{**vars(settings), "environment": {"PYTHONHOME": "/nowhere"}})
        supervisor._pool._settings = type(broken)(**{**vars(broken), "spec": None})
        with pytest.raises(pyisolate.SandboxError, match="zygote"):
            spawn_some(supervisor)
        supervisor._pool._settings = settings
        with supervisor.spawn("again") as sandbox:
            assert sandbox.eval("1") == 1
