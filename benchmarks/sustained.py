"""Sustained spawn, exec, close: at least 0.65 of bare, unconfined forks of a process as warm."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pyisolate

from .bare_fork import Forkers, forkers
from .figures import Figure, Outcome, Reference, Settings, Skipped
from .kernel_threads import busy_s, kernel_s
from .measure import median
from .quiet import cpu_s
from .spawn_pool import COMMAND

CONFINED = "bare forks, confined as a cell is before its policy, 2 at a time"
#: Of the rate of bare forks.
BUDGET = 0.65
HOST_THREADS = (2, 3, 4)
POOL = 8
#: The pool is counted with every so many sandboxes.
_COUNTED_EACH = 16


def run(settings: Settings) -> Outcome:
    """Take windows in turns: each count of host threads, then bare forks and `subprocess.run`."""
    window_s = 1.5 if settings.quick else 3.0
    measured, outcome = _Measured(), Outcome()
    with forkers(2) as bare, pyisolate.Supervisor(pool_size=POOL) as supervisor:
        busy = _Busy(supervisor)
        _loop(busy.one, 2, 0.5)
        for _ in range(settings.rounds(3, 1)):
            for threads in HOST_THREADS:
                measured.window(busy, supervisor, threads, window_s)
            measured.forks.append(bare.rate(window_s / 2))
            measured.confined += _confined(bare, window_s / 2, outcome)
            count, took = _loop(lambda: subprocess.run(COMMAND, check=True), 2, window_s / 2)
            measured.processes.append(count / took)
    floor = Reference("bare, unconfined forks of a process as warm, 2 at a time", median(measured.forks))
    outcome.figures.append(_figure(measured, busy, floor, window_s))
    if confined := measured.confined:
        spread = f"min {min(confined):.0f}, max {max(confined):.0f}, {len(confined)} x {window_s / 2} s"
        outcome.figures.append(Figure(what=CONFINED, value=median(confined), unit="/s", spread=spread, reference=floor))
    return outcome


@dataclass
class _Measured:
    """Rates (a second) of each window, and the processor time of all windows of sandboxes (seconds)."""

    rates: dict[int, list[float]] = field(default_factory=lambda: {threads: [] for threads in HOST_THREADS})
    processes: list[float] = field(default_factory=list)
    forks: list[float] = field(default_factory=list)
    confined: list[float] = field(default_factory=list)
    host_s: float = 0.0
    #: with the inits of cells, and not the guests that end with them
    zygotes_s: float = 0.0
    kernel_s: float = 0.0
    #: of the whole machine
    busy_s: float = 0.0
    sandboxes: int = 0

    def window(self, busy: _Busy, supervisor: pyisolate.Supervisor, threads: int, window_s: float) -> None:
        """Spawn, run and close from so many host threads for a window."""
        before = _self_cpu_s(), _zygotes_cpu_s(supervisor), kernel_s(), busy_s()
        count, took = _loop(busy.one, threads, window_s)
        self.host_s += _self_cpu_s() - before[0]
        self.kernel_s += kernel_s() - before[2]
        self.zygotes_s += _zygotes_cpu_s(supervisor) - before[1]
        self.busy_s += busy_s() - before[3]
        self.rates[threads].append(count / took)
        self.sandboxes += count


def _figure(measured: _Measured, busy: _Busy, floor: Reference, window_s: float) -> Figure:
    by_threads = {threads: median(found) for threads, found in measured.rates.items()}
    best = max(by_threads, key=by_threads.__getitem__)
    rates = measured.rates[best]
    return Figure(
        what=f"sustained spawn-exec-close, {best} host threads",
        value=by_threads[best],
        unit="/s",
        spread=f"min {min(rates):.0f}, max {max(rates):.0f}, {len(rates)} x {window_s} s",
        reference=floor,
        budget=f">= {BUDGET}x",
        met=by_threads[best] >= BUDGET * floor.value,
        note=_note(measured, busy, by_threads),
    )


def _note(measured: _Measured, busy: _Busy, by_threads: dict[int, float]) -> str:
    cores = len(os.sched_getaffinity(0))
    used_s = measured.host_s, measured.zygotes_s, measured.kernel_s, measured.busy_s
    host_ms, zygotes_ms, kernel_ms, busy_ms = (each / measured.sandboxes * 1e3 for each in used_s)
    return (
        f"host threads: {', '.join(f'{threads}: {rate:.0f}/s' for threads, rate in by_threads.items())}\n"
        f"processor time a sandbox: all of the machine's {busy_ms:.2f} ms, with which "
        f"{cores * 1e3 / busy_ms:.0f}/s fill {cores} processors; of it host {host_ms:.2f} ms "
        f"(one GIL: at most {1e3 / host_ms:.0f}/s), zygotes and inits {zygotes_ms:.2f} ms, "
        f"kernel threads {kernel_ms:.2f} ms; the rest is cells, and what else runs\n"
        f"subprocess.run from 2 threads: {median(measured.processes):.0f}/s\n"
        f"the pool of {POOL}: at most {busy.most_cells} cells warm or being made, "
        f"{max(0, busy.most_cells - POOL)} too many"
    )


class _Busy:
    """Spawns, runs and closes, and counts the pool's cells now and then."""

    def __init__(self, supervisor: pyisolate.Supervisor) -> None:
        self._supervisor, self._done = supervisor, 0
        #: cells for any policy or the usual one, warm or being made, at one time
        self.most_cells = 0

    def one(self) -> None:
        """Have one sandbox, from spawn to close."""
        sandbox = self._supervisor.spawn("benchmark")
        try:
            sandbox.exec("1")
        finally:
            sandbox.close()
        self._done += 1
        if self._done % _COUNTED_EACH == 0:
            pool = self._supervisor.diagnostics().pools["own_network"]
            self.most_cells = max(self.most_cells, pool.warm + pool.starting)


def _confined(bare: Forkers, window_s: float, outcome: Outcome) -> list[float]:
    try:
        return [bare.rate(window_s, "confined")]
    except RuntimeError as error:
        if not outcome.skipped:
            outcome.skipped.append(Skipped(what=CONFINED, why=str(error)))
        return []


def _loop(action: Callable[[], object], threads: int, window_s: float) -> tuple[int, float]:
    """Run `action` from so many threads for a window; return how often, and the seconds it took."""
    counts = [0] * threads
    errors: list[BaseException] = []
    started = time.monotonic()

    def work(index: int) -> None:
        try:
            while time.monotonic() - started < window_s:
                action()
                counts[index] += 1
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return sum(counts), time.monotonic() - started


def _zygotes_cpu_s(supervisor: pyisolate.Supervisor) -> float:
    """Return the processor time of the zygote, the policy zygotes and the inits that they have reaped (seconds)."""
    pool = supervisor.diagnostics().pools["own_network"]
    return sum(cpu_s(pid) for pid in (pool.zygote_pid, *pool.policy_zygote_pids) if pid is not None)


def _self_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
