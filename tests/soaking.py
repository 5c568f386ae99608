"""Spawn, run, refuse and close in rounds; between rounds nothing runs, and what must stay flat is read.

`work` returns the readings; every refusal is accounted for on the way: in the sandbox's own store and, over all of
them, in the counters, in the audit log and in a sink that is slower than the guests.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import pyisolate
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.sinks.audit_reader import read_events
from tests import inside, leaks
from tests.foreign_functions import with_ctypes

POOL = 6
THREADS = 3
FLOOD = 2300
#: Events a second that one sandbox may bring to audit log and sinks, and at once: a flood is far past both.
RATE, BURST = 100, 200

TRY = "for path in {paths}:\n    try: open(path)\n    except PermissionError: pass\n"
#: What a guest does, by the last digits of its number: source, refusals that it meets.
PLAIN = ("import json\njson.dumps({'a': [1, 2]})", 0)
KINDS = {
    0: (TRY.format(paths="('/etc/shadow', '/root/x')"), 2),
    13: ("import ctypes\nctypes.CDLL(None).unshare(0x10000000)", 1),
    25: ("import ctypes\nctypes.CDLL(None).socket(2, 1, 0)", 1),
    36: ("import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass", 1),
    48: ("import os\ntry: os.fork()\nexcept PermissionError: pass", 1),
    61: ("post([1] * 100)\nprint('x' * 3000)", 0),
    74: ("print('x' * 70_000)", 1),  # over its limit of output
    87: ("while True: pass", 1),  # over its time
}
EVERY = 100
#: One policy for all: each has kernel tables of its own.
LIMITS = {"output": "64KiB"}
#: One in so many is a flood: past the rate limit, and past what the store holds.
FLOOD_EVERY = 500


@dataclass(frozen=True)
class Reading:
    """What the host and the zygote hold while nothing runs."""

    done: int
    seconds: float
    rss_bytes: int
    #: without root views and workspaces: those of cells that stand by come and go
    descriptors: int
    #: of this supervisor's cells
    root_views: int
    threads: int
    zygote_rss_bytes: int
    zygote_descriptors: int
    processes: int
    cgroups: int
    mounts: int
    kinds: Counter[str] = field(default_factory=Counter, repr=False)

    def __str__(self) -> str:
        return (
            f"{self.done:6d} sandboxes {self.seconds:6.1f} s: host {self.rss_bytes / 2**20:.1f} MiB "
            f"{self.descriptors} descriptors {self.threads} threads; zygote {self.zygote_rss_bytes / 2**20:.1f} MiB "
            f"{self.zygote_descriptors} descriptors; {self.processes} processes, {self.cgroups} cgroups, "
            f"{self.mounts} mounts"
        )


class SlowSink:
    """Counts what reaches it, a little late."""

    immediate = False

    def __init__(self) -> None:
        self.counted = 0

    def emit(self, event: DenialEvent) -> None:
        self.counted += event.count
        if event.event_id.endswith(("0", "8")):
            time.sleep(0.0005)

    def close(self) -> None:
        pass


@dataclass
class Account:
    """Refusals: those that were provoked, and where they went."""

    provoked: int = 0
    counted: int = 0
    stored_or_lost: int = 0
    audited: int = 0
    audit_lost: int = 0
    sunk: int = 0
    sink_lost: int = 0
    suppressed: int = 0
    store_lost: int = 0
    kernel_lost: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self) -> None:
        assert self.counted == self.provoked, self
        assert self.stored_or_lost == self.provoked, self
        assert self.audited + self.audit_lost == self.provoked, self
        assert self.sunk + self.sink_lost == self.provoked, self
        assert self.kernel_lost == 0, self


def one(supervisor: pyisolate.Supervisor, number: int, account: Account) -> None:
    """Live one sandbox's life and compare what it was refused with what is known of it."""
    source, refusals = KINDS.get(number % EVERY, PLAIN)
    if number % FLOOD_EVERY == FLOOD_EVERY - 1:
        source, refusals = TRY.format(paths=f"[f'/etc/{{n}}' for n in range({FLOOD})]"), FLOOD
    with supervisor.spawn("soak", with_ctypes(), limits=LIMITS) as sandbox:
        over_time = {"timeout": 0.03} if source.startswith("while") else {}
        with contextlib.suppress(pyisolate.OutputExceeded, pyisolate.TimeoutError):
            sandbox.exec(source, **over_time)
        events, stats = sandbox.get_denial_events(), sandbox.stats
    known = sum(event.count for event in events) + stats.events_lost
    with account.lock:
        account.provoked += refusals
        account.stored_or_lost += known
    assert stats.denials == known == refusals, (number, refusals, stats, events[:5])


def work(count: int, rounds: int, audit: Path, log: Any = None) -> tuple[list[Reading], Account]:
    """Run `count` sandboxes in so many rounds; return a reading after each, and the account."""
    metrics, sink, account = Metrics(), SlowSink(), Account()
    log_file = AuditLog(audit, max_bytes=None, metrics=metrics)
    recorder = Recorder(metrics=metrics, audit=log_file, sinks=[sink], alerts=None, rate=RATE, burst=BURST)
    readings, started = [], time.monotonic()
    others = _kinds()[leaks.ROOT_VIEW]  # of other supervisors of this process, whose cells stand by, too
    with pyisolate.Supervisor(pool_size=POOL, recorder=recorder) as supervisor:
        for turn in range(rounds):
            _round(supervisor, range(turn * count // rounds, (turn + 1) * count // rounds), account)
            recorder.flush()
            readings.append(_read(supervisor, (turn + 1) * count // rounds, time.monotonic() - started, others))
            if log is not None:
                log(str(readings[-1]))
    recorder.shutdown()
    account.counted = int(metrics.denials.total())
    account.audited = sum(event.count for event in read_events(audit))
    account.sunk, account.suppressed = sink.counted, int(metrics.suppressed.total())
    account.store_lost, account.kernel_lost = (int(metrics.lost.value(stage)) for stage in ("store", "kernel"))
    account.sink_lost, account.audit_lost = (int(metrics.lost.value(stage)) for stage in ("sink", "audit"))
    return readings, account


def check_flat(readings: list[Reading], growth_bytes: int) -> None:
    """After the first round, which warms caches, nothing may grow; memory by allocator's noise only."""
    first, last = readings[0], readings[-1]
    told = "\n".join(map(str, readings))
    for name in ("descriptors", "zygote_descriptors", "processes", "mounts"):
        assert getattr(last, name) <= getattr(first, name), f"{name} {last.kinds - first.kinds}\n{told}"
    # As many cells stand by as the last spawns had one policy: each has a root view and a workspace, one is made ahead.
    assert last.root_views <= 2 * (POOL + 2), f"root views {last.kinds}\n{told}"
    # Timers and the sinks' thread come and go.
    assert last.threads <= first.threads + 2, f"threads\n{told}"
    # As many as were ever needed at once are kept: those in use, and those whose last process the kernel still buries.
    assert last.cgroups <= 8 * (POOL + THREADS), f"cgroups\n{told}"
    assert last.rss_bytes - first.rss_bytes < growth_bytes, f"memory of the host\n{told}"
    assert last.zygote_rss_bytes - first.zygote_rss_bytes < growth_bytes / 4, f"memory of the zygote\n{told}"


def _round(supervisor: pyisolate.Supervisor, numbers: range, account: Account) -> None:
    errors: list[BaseException] = []
    waiting = iter(numbers)
    lock = threading.Lock()

    def live() -> None:
        while not errors:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            try:
                one(supervisor, number, account)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=live) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _kinds() -> Counter[str]:
    return Counter(re.sub(r"\d+", "N", target) for target in leaks.descriptors().values())


def _read(supervisor: pyisolate.Supervisor, done: int, seconds: float, others: int) -> Reading:
    pool = inside.pool(supervisor)
    assert pool is not None
    assert pool.zygote_pid is not None
    _settle(supervisor)
    zygote = psutil.Process(pool.zygote_pid)
    kinds = _kinds()
    direct, below = leaks.children()
    return Reading(
        done=done,
        seconds=seconds,
        rss_bytes=psutil.Process().memory_info().rss,
        descriptors=sum(kinds.values()) - kinds[leaks.ROOT_VIEW],
        root_views=kinds[leaks.ROOT_VIEW] - others,
        kinds=kinds,
        threads=threading.active_count(),
        zygote_rss_bytes=zygote.memory_info().rss,
        zygote_descriptors=_count_descriptors(zygote.pid),
        processes=len(direct) + len(below),
        cgroups=0 if inside.cgroups(supervisor) is None else len(inside.cgroups(supervisor)._all),
        mounts=Path("/proc/self/mountinfo").read_bytes().count(b"\n"),
    )


def _count_descriptors(pid: int) -> int:
    """Count a zygote's descriptors, without the namespaces that it keeps for cells; -1 where this user may not."""
    try:
        return len(leaks.without_namespaces(pid))
    except PermissionError:
        return -1


def _settle(supervisor: pyisolate.Supervisor) -> None:
    """Wait until the pool is full, every cell that died is reaped, and no control group waits for its last process."""
    pool, tree = inside.pool(supervisor), inside.cgroups(supervisor)
    stock, deadline = pool.stock, time.monotonic() + 20
    while time.monotonic() < deadline:
        if tree is not None and tree._draining:
            tree._drain()
        draining = 0 if tree is None else len(tree._draining)
        # Another supervisor of this process (the default one) has a zygote and cells of its own.
        zygotes = () if pool.zygote_pid is None else (pool.zygote_pid, *stock.policies.pids)
        below = sum(len(leaks.below_zygote(pid).cells) for pid in zygotes)
        if stock.counts() > (POOL, 0):  # who waited for a cell had asked for one more, and was served before it came
            supervisor.spawn("surplus", with_ctypes(), limits=LIMITS).close()
        kept = POOL + stock.of_others()
        if stock.counts() == (POOL, 0) and len(stock.living()) == kept == below and not draining:
            return
        time.sleep(0.02)
    raise AssertionError(f"it never came to rest: {stock.counts()}, {len(stock.living())} cells, {leaks.children()}")
