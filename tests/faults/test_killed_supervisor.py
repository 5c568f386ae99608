"""kill -9 of a whole host process at random instants: nothing of it lives on, and the next supervisor sweeps up."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

import pyisolate
from tests import leaks
from tests.faults.orphans import Orphans, adopting

#: How long cells, zygote and helpers may take to follow their supervisor; they are a few dozen processes.
WITHIN_S = 5.0


def kill_one(orphans: Orphans, after_s: float, *, running: bool) -> float:
    """Start a host, kill it, and return how long its last process lived on."""
    victim = orphans.start("victim.py")
    assert victim.stdout is not None
    if running:
        assert victim.stdout.readline() == b"running\n"
    time.sleep(after_s)
    killed = time.monotonic()
    victim.kill()
    victim.wait()
    victim.stdout.close()
    left = orphans.wait_for_none(WITHIN_S)
    assert not left, f"{WITHIN_S} s after kill -9: {left}"
    return time.monotonic() - killed


def zygote_of(host: int) -> int:
    return next(pid for pid in leaks.children_of(host) if "pyisolate-zyg" in Path(f"/proc/{pid}/comm").read_text())


def groups_of_the_dead() -> set[str]:
    me = str(os.getpid())
    return {path for path in leaks.cgroups() if os.path.basename(path).split(".")[1] != me}


@pytest.mark.timeout(300)
def test_hosts_die_at_random(chance: random.Random) -> None:
    with adopting() as orphans:
        for number in range(20):
            # half of them while they start: probes, helpers and the zygote are on their way
            running = bool(number % 2)
            kill_one(orphans, chance.random() * (0.3 if running else 0.9), running=running)
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        assert not groups_of_the_dead()
        with supervisor.spawn("next") as sandbox:
            assert sandbox.eval("1") == 1


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_hundreds_of_hosts_die_at_random(chance: random.Random, soak_seconds: float) -> None:
    deadline = time.monotonic() + soak_seconds
    with adopting() as orphans:
        while time.monotonic() < deadline:
            running = chance.random() < 0.5
            kill_one(orphans, chance.random() * (0.3 if running else 0.9), running=running)


def test_what_the_supervisor_holds_ends_even_while_the_zygote_is_stopped() -> None:
    """A stopped zygote cannot watch: what it holds must not run on for ever."""
    with adopting() as orphans:
        victim = orphans.start("victim.py")
        assert victim.stdout is not None
        victim.stdout.readline()
        zygote = zygote_of(victim.pid)
        os.kill(zygote, signal.SIGSTOP)
        victim.kill()
        victim.wait()
        victim.stdout.close()
        time.sleep(0.5)
        # The next supervisor ends what it finds in the dead one's control groups.
        with pyisolate.Supervisor(pool_size=0) as supervisor, supervisor.spawn("next") as sandbox:
            assert sandbox.eval("1") == 1
        os.kill(zygote, signal.SIGCONT)
        assert not orphans.wait_for_none(WITHIN_S)
    assert not groups_of_the_dead()
