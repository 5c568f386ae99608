"""Moving a cell into its control group may take the kernel milliseconds: no other sandbox waits for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import pyisolate
from pyisolate.limits.cgroup import CgroupLease
from tests import inside
from tests.require import require
from tests.waiting import until


class Held:
    """Holds every move up until it is let go; the move itself is the kernel's."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.threads: set[str] = set()

    def wrap(self, add: Callable[[CgroupLease, int], None]) -> Callable[[CgroupLease, int], None]:
        def held(lease: CgroupLease, pid: int) -> None:
            self.threads.add(threading.current_thread().name)
            self.begun.set()
            assert self.go_on.wait(30)
            add(lease, pid)

        return held


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held()
    made.go_on.set()
    monkeypatch.setattr(CgroupLease, "add", made.wrap(CgroupLease.add))
    yield made
    made.go_on.set()


@pytest.fixture
def supervisor(held: Held) -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as own:
        require("cgroup", inside.runtime(own).started.cgroups is not None, "no control groups here")
        yield own


def movers() -> set[threading.Thread]:
    """Return the threads that move cells, those of other supervisors of this process among them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("pyisolate-mover")}


TALKS = """
import threading, time
def talk():
    while True:
        post(time.monotonic())
        time.sleep(0.01)
threading.Thread(target=talk, daemon=True).start()
"""


def test_others_are_served_while_a_cell_is_moved(supervisor: pyisolate.Supervisor, held: Held) -> None:
    with supervisor.spawn("talks") as talks:
        talks.exec(TALKS)
        until(lambda: supervisor.diagnostics().pools["own_network"].starting == 0)
        held.threads.clear()
        held.begun.clear()
        held.go_on.clear()
        supervisor.spawn("takes the warm one")
        waiting: list[pyisolate.Sandbox] = []
        spawner = threading.Thread(target=lambda: waiting.append(supervisor.spawn("waits")))
        spawner.start()
        assert held.begun.wait(20)
        since = time.monotonic()
        until(lambda: talks.recv(timeout=5) > since)  # what it posts between requests, the reactor reads
        assert waiting == []
        held.go_on.set()
        spawner.join()
        with waiting[0] as sandbox:
            assert sandbox.eval("1") == 1
            lease = inside.runtime(supervisor).registry.lease_of(sandbox.pid)
            assert lease is not None
            assert sandbox.pid in lease.pids()
    assert held.threads == {"pyisolate-mover"}


def test_a_cell_that_dies_while_it_is_moved_leaves_no_group(supervisor: pyisolate.Supervisor, held: Held) -> None:
    until(lambda: supervisor.diagnostics().pools["own_network"].warm == 1)
    held.begun.clear()
    held.go_on.clear()
    with supervisor.spawn("first"):
        pass
    assert held.begun.wait(20)
    stock = inside.pool(supervisor).stock
    (moving,) = (cell for cell in stock.living() if stock.is_moving(cell))
    moving.signal(signal.SIGKILL)
    until(moving.exited.is_set)
    held.go_on.set()
    with supervisor.spawn("next") as sandbox:
        assert sandbox.pid != moving.pid
        assert sandbox.eval("1") == 1
    until(lambda: supervisor.diagnostics().pools["own_network"].warm == 1)
    until(lambda: supervisor.diagnostics().leases == 1)


def test_a_supervisor_closes_while_a_cell_is_moved(held: Held) -> None:
    before = movers()
    with pyisolate.Supervisor(pool_size=1) as own:
        require("cgroup", inside.runtime(own).started.cgroups is not None, "no control groups here")
        until(lambda: own.diagnostics().pools["own_network"].warm == 1)
        held.begun.clear()
        held.go_on.clear()
        own.spawn("first").close()
        assert held.begun.wait(20)
        threading.Timer(0.3, held.go_on.set).start()
    assert movers() <= before


def test_a_forked_host_has_no_thread_of_it(supervisor: pyisolate.Supervisor) -> None:
    supervisor.spawn("first").close()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        status = 1
        try:
            supervisor.close()
            with pyisolate.Supervisor(pool_size=1) as own, own.spawn("in the child") as sandbox:
                os.write(writer, str(sandbox.eval("6 * 7")).encode())
                status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"42"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
