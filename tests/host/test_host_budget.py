"""What a sandbox may cost the host's threads while it serves others: a budget, at the wire and at the listener."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate.native.account import HOST_BURST_S, HOST_RESERVE_S, HOST_SHARE
from pyisolate.telemetry.metrics import METRICS
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.hostile import FINDS_THE_WIRE, forged_frames
from tests.require import require

#: What one look at the account may come late by: a turn's frames, or what the ring holds.
SLACK_S = 0.05
SETUP = f"""{FINDS_THE_WIRE}
done, stopping, threads = itertools.count(), threading.Event(), []
def start(number):
    stopping.clear()
    def work():
        time.sleep(0.2)  # after the answer
        while not stopping.is_set(): one()
    threads[:] = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads: thread.start()
def finish():
    stopping.set()  # nothing else is written before the last of the forged frames is whole
    for thread in threads: thread.join()
    return next(done)
"""
#: Forged frames by the wire, one thread's; refused calls, of another argument each time so that none are summed up.
WAYS = {
    "frames": (
        1,
        """
def one():
    rest = memoryview(FRAMES)
    while rest: rest = rest[os.write(wire, rest):]
    for _ in range(200): next(done)
""",
    ),
    "calls": (
        3,
        """
flags = itertools.count(1)
def one():
    libc.unshare(ctypes.c_int(0x10000000 | next(flags) % 256 << 20))
    next(done)
""",
    ),
}


@contextlib.contextmanager
def _flooding(supervisor: pyisolate.Supervisor, way: str) -> Iterator[pyisolate.Sandbox]:
    threads, source = WAYS[way]
    policy = with_ctypes().with_limits(cpu="1h", wall="1h", processes=64)
    with supervisor.spawn("flood", policy) as sandbox:
        sandbox.exec(f"{SETUP}\nFRAMES = {forged_frames()!r}\n{source}")
        sandbox.call("start", threads)
        yield sandbox


def _spent_s(sandbox: pyisolate.Sandbox) -> float:
    return sandbox.stats.host_cpu_s or 0.0


@pytest.mark.parametrize("way", WAYS)
def test_a_flood_keeps_to_its_budget_beside_an_honest_guest_and_loses_no_event(way: str) -> None:
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        require("seccomp", inside.plan(supervisor).listener is not None, "no notification listener here")
        with supervisor.spawn("honest") as honest, _flooding(supervisor, way) as hostile:
            # The control: nobody else is served, and the flood costs more than a budget.
            began, until = time.monotonic(), time.monotonic() + 60
            at_once = HOST_RESERVE_S + HOST_BURST_S + SLACK_S
            while _spent_s(hostile) < at_once + 2 * HOST_SHARE * (time.monotonic() - began):
                assert time.monotonic() < until, "the flood does not cost the host anything"
                time.sleep(0.02)
            # From here on an honest guest is served.
            honest.eval("1")
            held = hostile.stats.host_held_s or 0.0
            began, before, served = time.monotonic(), _spent_s(hostile), 0
            while time.monotonic() - began < 2:
                assert honest.eval("1 + 1") == 2
                served += 1
                time.sleep(0.01)
            spent, took = _spent_s(hostile) - before, time.monotonic() - began
            assert served > 10
            assert spent < HOST_BURST_S + SLACK_S + HOST_SHARE * took
            assert (hostile.stats.host_held_s or 0.0) > held
            # Waiting is not losing.
            done = hostile.call("finish")
            until = time.monotonic() + 60
            while hostile.stats.denials < done and time.monotonic() < until:
                time.sleep(0.02)
            told = hostile.get_denial_events()
            assert hostile.stats.denials == done > 100
            assert sum(event.count for event in told) + hostile.stats.events_lost == done


def _held_s() -> float:
    (family,) = (one for one in METRICS.registry.collect() if one.name == "pyisolate_host_held_seconds")
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


def test_a_time_limit_and_close_wait_for_no_budget() -> None:
    """What was kept waiting is counted, and the count outlives its sandbox."""
    before = _held_s()
    with pyisolate.Supervisor(pool_size=0) as supervisor, supervisor.spawn("honest") as honest:
        stop = threading.Event()

        def serve() -> None:
            while not stop.wait(0.01):
                honest.eval("1")

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            with _flooding(supervisor, "calls") as hostile:
                until = time.monotonic() + 60
                while not hostile.stats.host_held_s:
                    assert time.monotonic() < until
                    time.sleep(0.02)
                with pytest.raises(pyisolate.TimeoutError):
                    hostile.exec("while True: pass", timeout=0.3)
            assert hostile.closed
            held, until = hostile.stats.host_held_s or 0.0, time.monotonic() + 60
            while _held_s() < before + held - 1e-6 and time.monotonic() < until:
                time.sleep(0.02)  # its cell is reaped later
            assert _held_s() >= before + held - 1e-6 > before
        finally:
            stop.set()
            serving.join()
