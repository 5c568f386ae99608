"""After a rest a cell is born in its control group: nobody waits until it has been moved. Its limits are as ever."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import LimitExceeded, Policy
from pyisolate.limits.cgroup import CgroupLease
from pyisolate.limits.groups_ahead import GroupsAhead
from pyisolate.supervisor.runtime import Runtime
from tests import inside
from tests.require import require
from tests.waiting import until

FORKS = """
import os
started = 0
try:
    for _ in range(20):
        if os.fork() == 0:
            while True:
                os.read(os.pipe()[0], 1)
        started += 1
except BlockingIOError:
    pass
started
"""


class Moves:
    """Which processes are moved into a group; a maker's move waits while `go_on` is clear."""

    def __init__(self) -> None:
        self.asked, self.makers, self.ready = list[int](), list[int](), list[int]()
        self.go_on = threading.Event()
        self.go_on.set()


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moves]:
    made, add, move_maker = Moves(), CgroupLease.add, Runtime.move_maker

    def noted(lease: CgroupLease, pid: int) -> None:
        made.asked.append(pid)
        assert pid not in made.makers or made.go_on.wait(30)
        add(lease, pid)

    def of_maker(runtime: Runtime, groups: GroupsAhead, init: int, maker: int) -> None:
        made.makers.append(maker)
        move_maker(runtime, groups, init, maker)
        made.ready.append(maker)

    monkeypatch.setattr(CgroupLease, "add", noted)
    monkeypatch.setattr(Runtime, "move_maker", of_maker)
    yield made
    made.go_on.set()


def needs(own: pyisolate.Supervisor) -> None:
    require("cgroup", inside.cgroups(own) is not None, "no control groups here")
    require("namespaces", own.diagnostics().usable("namespaces"), "a cell has no init without")


@pytest.fixture
def supervisor(moves: Moves) -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=0) as own:
        needs(own)
        yield own


def lease_of(supervisor: pyisolate.Supervisor, sandbox: pyisolate.Sandbox) -> CgroupLease:
    lease = inside.runtime(supervisor).registry.lease_of(sandbox.pid)
    assert lease is not None
    return lease


def spawn_after_a_rest(
    supervisor: pyisolate.Supervisor, moves: Moves, policy: Policy | None = None
) -> pyisolate.Sandbox:
    until(lambda: moves.ready)
    moves.ready.clear()
    return supervisor.spawn("rested", Policy.preset("compute") if policy is None else policy)


def test_a_cell_is_born_in_its_group(supervisor: pyisolate.Supervisor, moves: Moves) -> None:
    with spawn_after_a_rest(supervisor, moves) as sandbox:
        assert sandbox.pid not in moves.asked
        lease = lease_of(supervisor, sandbox)
        assert lease.holds(sandbox.pid)
        assert lease.pids() == [sandbox.pid], "its maker has ended"
        assert lease.usage().processes == 1
        assert sandbox.eval("__import__('os').getpid()") == 2, "as in every other cell"


def test_a_cell_that_was_moved_is_in_the_same_place(
    supervisor: pyisolate.Supervisor, moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "move_maker", lambda *_: None)
    supervisor.spawn("takes the one that is ready").close()
    with supervisor.spawn("moved") as sandbox:
        assert sandbox.pid in moves.asked
        assert lease_of(supervisor, sandbox).holds(sandbox.pid)
        assert sandbox.eval("__import__('os').getpid()") == 2


@pytest.mark.parametrize("processes", [1, 3])
def test_the_limit_of_processes_is_the_guests_alone(
    supervisor: pyisolate.Supervisor, moves: Moves, processes: int
) -> None:
    policy = Policy.preset("compute").allow_fork().with_limits(processes=processes, wall="20s")
    for _ in range(2):  # the second in the first one's group, whose limit would be too low to be born under
        with spawn_after_a_rest(supervisor, moves, policy) as sandbox:
            assert sandbox.pid not in moves.asked
            assert sandbox.eval(f"[exec({FORKS!r}, found := {{}}), found['started']][1]") == processes - 1


def test_a_guest_without_memory_takes_nobody_with_it(supervisor: pyisolate.Supervisor, moves: Moves) -> None:
    zygote = supervisor.diagnostics().zygote_pid
    policy = Policy.preset("compute").with_limits(memory="16MiB", wall="20s")
    for _ in range(2):
        with spawn_after_a_rest(supervisor, moves, policy) as sandbox:
            assert sandbox.pid not in moves.asked
            with pytest.raises(LimitExceeded, match="memory"):
                sandbox.exec("held = bytearray(64 << 20)")
    assert supervisor.diagnostics().zygote_pid == zygote
    with supervisor.spawn("next") as sandbox:
        assert sandbox.eval("6 * 7") == 42


def memory_limits(lease: CgroupLease) -> list[str]:
    files = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    paths = [Path(directory, file) for directory in lease._controls.directories for file in files]
    return [path.read_text().strip() for path in paths if path.exists()]


def test_a_cell_is_born_under_no_limit_of_memory(
    supervisor: pyisolate.Supervisor, moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker shares the zygote's memory: who is ended there for want of memory takes all sandboxes with it."""
    add, met = CgroupLease.add, list[list[str]]()

    def noted(lease: CgroupLease, pid: int) -> None:
        if pid in moves.makers:
            met.append(memory_limits(lease))
        add(lease, pid)

    monkeypatch.setattr(CgroupLease, "add", noted)
    tree = inside.cgroups(supervisor)
    assert tree is not None
    unlimited = memory_limits(fresh := tree._new())
    fresh.release()
    policy = Policy.preset("compute").with_limits(memory="1GiB")
    for _ in range(3):
        with spawn_after_a_rest(supervisor, moves, policy) as sandbox:
            assert memory_limits(lease_of(supervisor, sandbox)) != unlimited, "a guest has its limit"
    until(lambda: len(met) >= 3)
    assert unlimited
    assert all(one == unlimited for one in met), met


FILLS = """
import os
fd = os.open({path!r}, os.O_WRONLY | os.O_CREAT)
while True:
    os.write(fd, bytes(1 << 16))
"""


def test_what_a_guest_leaves_in_a_tmpfs_is_no_other_guests(supervisor: pyisolate.Supervisor, moves: Moves) -> None:
    zygote = supervisor.diagnostics().zygote_pid
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place, supervisor.spawn("witness") as witness:
        os.chmod(place, 0o777)
        hostile = Policy.preset("compute").allow_write(place).with_limits(memory="68MB", file_size="1GB", wall="30s")
        honest = Policy.preset("compute").with_limits(memory="66MB", wall="30s")
        for number in range(3):
            sandbox = spawn_after_a_rest(supervisor, moves, hostile)
            with sandbox, pytest.raises(LimitExceeded, match="memory"):
                sandbox.exec(FILLS.format(path=f"{place}/{number}"))
            assert os.stat(f"{place}/{number}").st_blocks * 512 > 16 << 20, "it stays"
            with spawn_after_a_rest(supervisor, moves, honest) as sandbox:
                assert sandbox.eval("len(bytearray(20_000_000))") == 20_000_000
        assert witness.eval("1") == 1
    assert supervisor.diagnostics().zygote_pid == zygote


def test_a_cell_that_is_forked_while_its_maker_is_moved(moves: Moves) -> None:
    moves.go_on.clear()
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        needs(supervisor)
        until(lambda: moves.makers)
        found: list[pyisolate.Sandbox] = []
        spawner = threading.Thread(target=lambda: found.append(supervisor.spawn("early")))
        spawner.start()
        until(lambda: inside.pool(supervisor).stock.living())
        assert moves.ready == []
        moves.go_on.set()
        spawner.join()
        with found[0] as sandbox:
            assert lease_of(supervisor, sandbox).holds(sandbox.pid)
            assert sandbox.eval("1") == 1


def test_a_maker_that_ends_costs_nothing_but_time(supervisor: pyisolate.Supervisor, moves: Moves) -> None:
    until(lambda: moves.ready)
    os.kill(moves.ready[-1], signal.SIGKILL)
    for _ in range(3):
        with spawn_after_a_rest(supervisor, moves) as sandbox:
            assert lease_of(supervisor, sandbox).holds(sandbox.pid)
            assert sandbox.eval("1") == 1
    until(lambda: supervisor.diagnostics().leases == 0)
    assert (supervisor.diagnostics().control_groups or 0) <= 4


def test_a_zygote_that_ends_gives_its_group_back(supervisor: pyisolate.Supervisor, moves: Moves) -> None:
    until(lambda: moves.ready)
    zygote = supervisor.diagnostics().zygote_pid
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    until(lambda: supervisor.diagnostics().zygote_pid is None)
    tree = inside.cgroups(supervisor)
    assert tree is not None
    groups = tree.size
    for _ in range(3):
        with supervisor.spawn("next") as sandbox:
            assert sandbox.eval("1") == 1
        until(lambda: supervisor.diagnostics().leases == 0)
    assert tree.size <= groups + 1


def test_a_guest_has_the_weight_of_a_guest(supervisor: pyisolate.Supervisor, moves: Moves) -> None:
    tree = inside.cgroups(supervisor)
    assert tree is not None
    with spawn_after_a_rest(supervisor, moves) as sandbox:
        directory = tree.weights.directory_of(lease_of(supervisor, sandbox).name)
        place = tree.layout.weight
        v1 = directory is not None and place is not None and place.version == 1
        require("cgroup-v1", v1, "on v2 each group has a share of the tree's")
        assert Path(f"{directory}/cpu.shares").read_text() == "256\n"
