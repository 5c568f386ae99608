"""Runaway processes end within a second of their limit and leave nothing, with control groups and without."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyisolate.limits.cgroup import CgroupTree
from pyisolate.limits.usage import TreeReader, Usage, descendants
from pyisolate.limits.watchdog import ExceededLimit, Watchdog
from pyisolate.policy.compiled import Limits
from tests.require import require

pytestmark = pytest.mark.alone  # measures time

MIB = 1 << 20
ENDS_WITHIN_S = 1.0

#: Alone in user and pid namespaces like a cell, then what a cell applies, then a line of input, then the source.
CELL = """
import ctypes, os, sys, time
from pyisolate.limits import rlimit
from pyisolate.policy.compiled import Limits
import signal  # now: that user may not be able to read the interpreter
if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000 | 0x20000000): sys.exit(77)
child = os.fork()
if child:
    libc.prctl(36, 0)
    os.waitpid(child, 0)
    sys.exit(0)
libc.prctl(1, 9)
limits = Limits({limits})
rlimit.apply(rlimit.compute(limits, cgroup_memory={cgroup}, own_user_namespace=True))
print("ready", flush=True)
sys.stdin.readline()
{source}
"""


@dataclass
class Cell:
    """A confined process of a test and what reads and ends it."""

    process: subprocess.Popen[str]
    init: int
    read_usage: Callable[[], Usage]
    kill: Callable[[], None]

    def all_dead(self) -> bool:
        return not [pid for pid in descendants(self.init) if not is_dead(pid)]


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


@contextlib.contextmanager
def cell(source: str, limits: str, tree: CgroupTree | None) -> Iterator[Cell]:
    text = CELL.format(source=source, limits=limits, cgroup=tree is not None)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lease = None
    init = 0
    try:
        ready = process.stdout.readline() == "ready\n"
        require("userns", ready or process.wait() != 77, "unprivileged user namespaces are not allowed here")
        assert ready
        (init,) = descendants(process.pid)[1:]
        if tree is None:
            read, kill = TreeReader(init).read, lambda: os.kill(init, signal.SIGKILL)
        else:
            lease = tree.lease()
            lease.add(init)
            lease.apply(eval(f"Limits({limits})", {"Limits": Limits}))
            read, kill = lease.usage, lease.kill
        process.stdin.write("\n")
        process.stdin.flush()
        yield Cell(process, init, read, kill)
    finally:
        with contextlib.suppress(ProcessLookupError):
            if init:
                os.kill(init, signal.SIGKILL)
        process.kill()
        process.communicate()
        if lease is not None:
            lease.release()


@pytest.fixture(params=["cgroup", "tree"])
def tree(request: pytest.FixtureRequest) -> Iterator[CgroupTree | None]:
    if request.param == "tree":
        yield None
        return
    made, availability = CgroupTree.open()
    require("cgroup", made is not None, availability.reason)
    assert made is not None
    with made:
        yield made


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog()
    yield made
    made.stop()


def run_until_exceeded(watchdog: Watchdog, one: Cell, limits: Limits, deadline_s: float | None = None) -> ExceededLimit:
    """Watch a cell, end it when told to, and see that it is gone within a second."""
    fired: queue.Queue[ExceededLimit] = queue.Queue()

    def on_exceeded(_: object, exceeded: ExceededLimit) -> None:
        one.kill()
        fired.put(exceeded)

    deadline_ns = None if deadline_s is None else time.monotonic_ns() + int(deadline_s * 1e9)
    watchdog.watch("cell", deadline_ns=deadline_ns, limits=limits, read_usage=one.read_usage, on_exceeded=on_exceeded)
    exceeded = fired.get(timeout=20)
    ended = time.monotonic()
    while not one.all_dead():
        assert time.monotonic() - ended < ENDS_WITHIN_S, "still alive a second after the limit"
        time.sleep(0.005)
    return exceeded


def test_a_memory_bomb(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    # Touched page by page, as data that is really read would be.
    source = f"parts = []\nwhile True: parts.append(b'x' * {MIB})"
    with cell(source, f"memory_bytes={96 * MIB}", tree) as one:
        exceeded = run_until_exceeded(watchdog, one, Limits(memory_bytes=96 * MIB))
    assert (exceeded.limit, exceeded.allowed) == ("memory", 96 * MIB)
    assert exceeded.used > 0.9 * 96 * MIB


def test_memory_summed_over_processes(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    source = f"""
for _ in range(4):
    if os.fork() == 0:
        part = b'x' * {40 * MIB}; time.sleep(60)
time.sleep(60)
"""
    with cell(source, f"memory_bytes={96 * MIB}", tree) as one:
        exceeded = run_until_exceeded(watchdog, one, Limits(memory_bytes=96 * MIB))
    assert exceeded.limit == "memory"


def test_a_fork_bomb(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    source = "while True:\n  try: os.fork()\n  except OSError: pass"
    with cell(source, "processes=12", tree) as one:
        exceeded = run_until_exceeded(watchdog, one, Limits(processes=12))
    assert (exceeded.limit, exceeded.allowed) == ("processes", 12)
    assert exceeded.used > 12


def test_a_loop_in_c(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    source = "import collections, itertools; collections.deque(itertools.repeat(0), 0)"
    with cell(source, "cpu_s=0.3", tree) as one:
        started = time.monotonic()
        exceeded = run_until_exceeded(watchdog, one, Limits(cpu_s=0.3))
        # Started processes count too, and other builds may share the processors.
        assert time.monotonic() - started < 5
    assert exceeded.limit == "cpu"
    assert 0.3 < exceeded.used < 1.3


def test_processor_time_of_children_that_died_unreaped(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    source = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.1
        while time.process_time() < end: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
"""
    with cell(source, "cpu_s=1", tree) as one:
        exceeded = run_until_exceeded(watchdog, one, Limits(cpu_s=1))
    assert exceeded.limit == "cpu"


def test_a_sleeping_orphan_in_its_own_session(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    source = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("asleep", flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(60)
"""
    with cell(source, "", tree) as one:
        assert one.process.stdout is not None
        assert one.process.stdout.readline() == "asleep\n"
        # The process between the two may still be ending.
        while len(below := descendants(one.init)) != 2:
            time.sleep(0.005)
        orphan = below[1]
        exceeded = run_until_exceeded(watchdog, one, Limits(), deadline_s=0.1)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while not is_dead(orphan):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert exceeded.limit == "wall"


def test_a_guest_within_its_limits_is_left_alone(watchdog: Watchdog, tree: CgroupTree | None) -> None:
    source = f"""
part = b'x' * {40 * MIB}
for _ in range(3):
    if os.fork() == 0: time.sleep(0.3); os._exit(0)
for _ in range(3): os.wait()
print("done", flush=True)
"""
    limits = Limits(memory_bytes=96 * MIB, processes=4, cpu_s=5)
    fired: queue.Queue[object] = queue.Queue()
    with cell(source, f"memory_bytes={96 * MIB}, processes=4, cpu_s=5", tree) as one:
        watchdog.watch(
            "cell", limits=limits, read_usage=one.read_usage, on_exceeded=lambda *exceeded: fired.put(exceeded)
        )
        assert one.process.stdout is not None
        assert one.process.stdout.readline() == "done\n"
        watchdog.unwatch("cell")
    assert fired.empty()
