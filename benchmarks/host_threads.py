"""Host threads that are not sandboxed, beside a live sandbox thread: at most 1.05 x on open+close, 1.00 on compute.

An audit hook cannot be taken out again, so each sample is a pair of fresh processes that work in turns: both measure
without a hook, then one of them starts a sandbox thread, then both measure again. (after / before) of the one over
(after / before) of the other cancels what differs between two processes and what changes on the machine meanwhile.
The same with a pair in which neither starts a sandbox is the noise of the method.
Processor time is measured, not the clock: who else runs on the machine is not the hook's doing.

Objects that a process made and freed leave holes, over which what is made later is strewn: 64 integers in a dictionary
then take 5 to 13 per cent longer to replace, whoever made the holes. So both processes fill theirs before they measure.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import pyisolate

from .asked import AskedProcess
from .figures import Figure, Outcome, Reference, Settings
from .measure import median

WORK = {
    "os.open": ("os.open + os.close", 1.05, "<= 1.05x"),
    "open": ("open().close()", 1.05, "<= 1.05x"),
    "compute": ("compute", 1.00, "<= 1.00x"),
}
OPENS = 2000
LOOPS = 30_000
#: What fills the holes of the allocator, of each size of object that it keeps apart (bytes; obmalloc.c).
HELD_BYTES = 2 << 20
SIZES = range(48, 513, 16)
#: With more noise than this nothing can be said about five per cent.
USABLE_NOISE = 0.02


_COMMAND = [sys.executable, "-m", __name__]
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}


def run(settings: Settings) -> Outcome:
    """Measure pairs of processes, with and without a sandbox thread in one of them."""
    pairs, batches = settings.rounds(7, 3), settings.rounds(12, 8)
    found: dict[str, list[float]] = {work: [] for work in WORK}
    noise: dict[str, list[float]] = {work: [] for work in WORK}
    absolute: dict[str, list[float]] = {work: [] for work in WORK}
    for _ in range(pairs):
        for into, command in ((found, "spawn"), (noise, "nothing")):
            ratios, seconds = _pair(command, batches)
            for work in WORK:
                into[work].append(ratios[work])
                absolute[work].append(seconds[work])
    figures = []
    for work, (name, limit, budget) in WORK.items():
        ratio, control = median(found[work]), median(noise[work])
        uncertainty = max(abs(value - 1) for value in (_quartile(noise[work], 0.25), _quartile(noise[work], 0.75)))
        base = median(absolute[work])
        figures.append(
            Figure(
                what=f"host thread beside a sandbox thread, {name}",
                value=ratio * base,
                unit="s",
                spread=f"ratios {min(found[work]):.3f} to {max(found[work]):.3f}, n={pairs} pairs",
                reference=Reference("the same without a hook", base),
                budget=budget,
                met=_verdict(ratio, limit, uncertainty),
                note=f"noise of the method, neither process sandboxed: {control:.3f}x (half of them within "
                f"{uncertainty:.3f} of 1)",
            )
        )
    return Outcome(figures=figures)


def _verdict(ratio: float, limit: float, uncertainty: float) -> bool | None:
    if ratio > limit + uncertainty:
        return False
    return True if uncertainty <= USABLE_NOISE and ratio <= limit + uncertainty / 2 else None


def _pair(command: str, batches: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return per kind of work the ratio of ratios and the seconds of an operation without a hook."""
    with AskedProcess(_COMMAND, _ENVIRONMENT) as one, AskedProcess(_COMMAND, _ENVIRONMENT) as other:
        before = _phase(one, other, batches)
        one.ask(command)
        other.ask("nothing")
        after = _phase(one, other, batches)
    ratios = {work: (after[work][0] / before[work][0]) / (after[work][1] / before[work][1]) for work in WORK}
    return ratios, {work: before[work][1] for work in WORK}


def _phase(one: AskedProcess, other: AskedProcess, batches: int) -> dict[str, tuple[float, float]]:
    medians = {}
    for work in WORK:
        samples: tuple[list[float], list[float]] = ([], [])
        for number in range(batches):
            sides = [(one, samples[0]), (other, samples[1])]
            for worker, into in sides if number % 2 else reversed(sides):
                into.append(float(worker.ask(work)))
        medians[work] = (median(samples[0]), median(samples[1]))
    return medians


def _quartile(samples: list[float], fraction: float) -> float:
    return sorted(samples)[round(fraction * (len(samples) - 1))]


def _compute(count: int) -> int:
    total, seen = 0, {}
    for number in range(count):
        total = (total * 31 + number) & 0xFFFFFF
        seen[total & 63] = number
    return total + len(seen)


def fill_holes() -> list[object]:
    """Return objects in all places that are free now: what is made while they live lies together."""
    held: list[object] = [object() for _ in range(HELD_BYTES // 16)]
    held += range(1 << 20, (1 << 20) + HELD_BYTES // 32)
    header = sys.getsizeof(b"")
    for size in SIZES:
        held += [bytes(size - header) for _ in range(HELD_BYTES // size)]
    return held


def _work(path: str) -> None:
    """Answer commands on stdin until it ends."""
    supervisor = pyisolate.Supervisor(pool_size=0)
    sandbox = None
    held = fill_holes()
    for command in map(str.strip, sys.stdin):
        started = time.thread_time()
        if command == "os.open":
            for _ in range(OPENS):
                os.close(os.open(path, os.O_RDONLY))
            took = (time.thread_time() - started) / OPENS
        elif command == "open":
            for _ in range(OPENS):
                open(path).close()
            took = (time.thread_time() - started) / OPENS
        elif command == "compute":
            _compute(LOOPS)
            took = (time.thread_time() - started) / LOOPS
        elif command == "spawn":
            sandbox = supervisor.spawn("beside", isolation="thread", enforcement="best_effort")
            sandbox.exec("x = 1")
            held += fill_holes()
            took = 0.0
        else:
            supervisor.start()  # the reactor and watchdog threads are there in both
            held += fill_holes()
            took = 0.0
        print(took, flush=True)
    if sandbox is not None:
        sandbox.close()
    supervisor.close()


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile() as file:
        _work(file.name)
