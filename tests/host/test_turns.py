"""Who keeps the processor gives way, in real groups and by real guests; nobody else does, and nobody for longer."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

import pyisolate
from pyisolate.limits import turns
from pyisolate.limits.cgroup import CgroupLease, CgroupTree
from tests.require import require
from tests.waiting import until

pytestmark = pytest.mark.alone  # who gets no processor keeps none

#: Looks are 0.1 to 0.2 s apart.
SEEN_WITHIN_S = 30.0
SPIN = """
import threading, time
def spin(until):
    while time.monotonic() < until and not STOP: pass
def start(seconds):
    STOP.clear()
    for _ in range(4): threading.Thread(target=spin, args=(time.monotonic() + seconds,)).start()
def stop(): STOP.append(1)
def task(): return 1
STOP = []
"""


@pytest.fixture
def supervisor(
    kept_supervisor: pyisolate.Supervisor, tree: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> pyisolate.Supervisor:
    """The file's: a start is no part of what these tests are about."""
    # a machine that others use leaves a guest that spins no fifth of a processor
    monkeypatch.setattr(turns, "_KEPT", 0.04)
    require("cgroup_cpu", tree.weights.give_way, "no cpu controller here whose groups can give way (Linux 5.15)")
    return kept_supervisor


def idle_file(sandbox: pyisolate.Sandbox) -> Path:
    """Return the file that says whether a sandbox gives way: found by the kernel's word, not by ours."""
    for line in Path(f"/proc/{sandbox.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for point in (f"/sys/fs/cgroup/{controllers or 'unified'}", "/sys/fs/cgroup"):
            if (file := Path(f"{point}{path}/cpu.idle")).exists():
                return file
    raise AssertionError("no cpu.idle")


def gives_way(file: Path) -> bool:
    return file.read_text().strip() == "1"


def test_a_guest_that_spins_gives_way_until_it_rests_and_an_honest_one_never(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("spins") as spins, supervisor.spawn("honest") as honest:
        for one in (spins, honest):
            one.exec(SPIN)
        file, others = idle_file(spins), idle_file(honest)
        until(lambda: not gives_way(file), within_s=SEEN_WITHIN_S)  # where what it has run by now is much
        spins.call("start", SEEN_WITHIN_S)
        # On an emulated machine a request takes a good part of what lies between two looks: the honest one rests first.
        until(lambda: gives_way(file) and not gives_way(others), within_s=SEEN_WITHIN_S)
        seen = []
        for _ in range(25):
            seen.append(gives_way(others))
            time.sleep(0.02)
        assert honest.call("task") == 1
        spins.call("stop")
        until(lambda: not gives_way(file), within_s=SEEN_WITHIN_S)
        assert True not in seen


def test_what_gave_way_weighs_what_it_did(supervisor: pyisolate.Supervisor) -> None:
    """The kernel gives a group that does not give way any more the default weight."""
    with supervisor.spawn("spins") as spins:
        spins.exec(SPIN)
        file = idle_file(spins)
        weight = next(file.with_name(name) for name in ("cpu.shares", "cpu.weight") if file.with_name(name).exists())
        until(lambda: not gives_way(file), within_s=SEEN_WITHIN_S)
        before = weight.read_text()
        spins.call("start", SEEN_WITHIN_S)
        until(lambda: gives_way(file), within_s=SEEN_WITHIN_S)
        assert weight.read_text() != before
        spins.call("stop")
        until(lambda: not gives_way(file), within_s=SEEN_WITHIN_S)
        assert weight.read_text() == before


def test_who_is_ended_gives_way_no_more(supervisor: pyisolate.Supervisor) -> None:
    """Its processes need the processor to be gone."""
    with supervisor.spawn("spins") as spins:
        spins.exec(SPIN)
        file = idle_file(spins)
        spins.call("start", SEEN_WITHIN_S)
        until(lambda: gives_way(file), within_s=SEEN_WITHIN_S)
    assert not gives_way(file)


def test_who_is_interrupted_has_its_turn(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("spins") as spins:
        spins.exec(SPIN)
        file = idle_file(spins)
        spins.call("start", SEEN_WITHIN_S)
        until(lambda: gives_way(file), within_s=SEEN_WITHIN_S)
        spins.interrupt()
        assert not gives_way(file)


def spinning(lease: CgroupLease) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"])
    lease.add(process.pid)
    return process


@pytest.mark.parametrize("killed", [True, False])
def test_a_reused_group_does_not_give_way(tree: CgroupTree, killed: bool) -> None:
    require("cgroup_cpu", tree.weights.give_way, "no cpu controller here whose groups can give way (Linux 5.15)")
    lease = tree.lease()
    directory = tree.weights.directory_of(lease.name)
    process = spinning(lease)
    try:

        def looked() -> bool:
            before_s = time.monotonic()
            lease.turn.look(before_s, 0.0, 0.0)
            lease.turn.look(time.monotonic(), before_s, 0.0)
            return gives_way(Path(f"{directory}/cpu.idle"))

        until(looked, within_s=SEEN_WITHIN_S)
        if killed:  # before it is gone: it needs the processor for that
            lease.kill()
            assert not gives_way(Path(f"{directory}/cpu.idle"))
    finally:
        process.kill()
        process.wait()
    lease.release()
    until(lambda: lease.turn in [tree.lease().turn], within_s=SEEN_WITHIN_S)
    assert not gives_way(Path(f"{directory}/cpu.idle"))


def test_a_tree_says_whether_its_groups_give_way(tree: CgroupTree) -> None:
    lease = tree.lease()
    directory = tree.weights.directory_of(lease.name)
    lease.release()
    assert tree.weights.give_way == (directory is not None and os.access(f"{directory}/cpu.idle", os.W_OK))
