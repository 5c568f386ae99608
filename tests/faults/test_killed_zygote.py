"""kill -9 of the zygote at random instants: its cells die with it, and the next spawn starts another."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import pyisolate
from tests import inside
from tests.faults.test_killed_cells import Load, nothing_is_kept

ROOT = Path(__file__).resolve().parents[2]


def kill_zygotes(supervisor: pyisolate.Supervisor, chance: random.Random, times: int) -> None:
    with Load(supervisor) as load:
        killed = well = 0
        while killed < times:
            if killed % 4 == 0:  # on a busy machine a zygote takes longer to start than it is left alone below
                load.wait_until_well(beyond=well)
                well = load.ended["well"]
            time.sleep(chance.random() * 0.4)
            pid = supervisor.diagnostics().zygote_pid
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
        os.kill(supervisor.diagnostics().zygote_pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(pyisolate.SandboxDied, match="zygote died"):
            sandbox.exec("while True: pass", timeout=20)
        assert time.monotonic() - started < 8


class Unfit(msgspec.Struct):
    """A specification that no zygote can read."""

    quiet_calls: bool = False
    reports: bool = False


def test_a_zygote_that_dies_again_and_again_is_told_of() -> None:
    # The reason is on the zygote's stderr; here it cannot even be started.
    with pyisolate.Supervisor(pool_size=1) as supervisor:
        settings = inside.pool(supervisor)._settings
        os.kill(supervisor.diagnostics().zygote_pid, signal.SIGKILL)
        broken = msgspec.structs.replace(settings, environment={"PYTHONHOME": "/nowhere"})
        inside.pool(supervisor)._settings = msgspec.structs.replace(broken, spec=Unfit())
        with pytest.raises(pyisolate.SandboxError, match="zygote"):
            spawn_some(supervisor)
        inside.pool(supervisor)._settings = settings
        with supervisor.spawn("again") as sandbox:
            assert sandbox.eval("1") == 1


HOST_OF_ORPHANS = """
import ctypes, os, signal
import pyisolate
from tests import leaks

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: as process 1 of a container is
with pyisolate.Supervisor(pool_size=3) as supervisor:
    supervisor.spawn("one").close()
    killed = supervisor.diagnostics().zygote_pid
    os.kill(killed, signal.SIGKILL)
    while True:
        try:
            with supervisor.spawn("two") as sandbox:
                assert sandbox.eval("1 + 1") == 2
            break
        except pyisolate.SandboxDied:  # a cell of the killed one
            pass
print(list(leaks.children_of("self")))
"""


def test_the_cells_of_a_dead_zygote_are_no_zombies_of_a_host_that_orphans_come_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOST_OF_ORPHANS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
