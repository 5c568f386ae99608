"""1,000 live sandboxes of 200 policies, 10,000 more in mixed order, and servers that spawn one for each request."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pyisolate

from .figures import Figure, Outcome, Settings, Skipped
from .measure import median, quantile, spread
from .quiet import descriptors_for, wait_full

LIVE, POLICIES, SPAWNS = 1000, 200, 10_000
#: What the spawns in mixed order may take; how many there were by then is printed (seconds).
_MIXED_S = 30.0
#: A server's threads, and the requests that come each second, whether those before are answered or not.
_THREADS, _REQUESTS_PER_S = 64, 300
POOL = 8


def run(settings: Settings) -> Outcome:
    """Fill a supervisor, and print how much longer a spawn takes there; then take requests as servers do."""
    live = settings.rounds(LIVE, 200)
    if why := descriptors_for(live):
        return Outcome(skipped=[Skipped(what=f"{live} live sandboxes", why=why)])
    base = pyisolate.Policy.preset("compute")
    policies = [base.with_limits(output=f"{size}kB") for size in range(101, 101 + settings.rounds(POLICIES, 40))]
    with pyisolate.Supervisor(pool_size=POOL) as supervisor:
        outcome = Outcome(figures=_filled(settings, supervisor, policies, live))
    served = _REQUESTS_PER_S * settings.rounds(4, 2)
    for name, serve in (("64 threads", _threads), ("asyncio", _asyncio)):
        with pyisolate.Supervisor(pool_size=POOL) as supervisor:
            supervisor.spawn("first").close()
            wait_full(supervisor, POOL)
            took, lasted_s = serve(supervisor, served)
        outcome.figures.append(
            Figure(
                what=f"a server's request by {name}: spawn, exec, close; p99",
                value=quantile(took, 0.99),
                unit="s",
                spread=spread(took, 1e3, tail=False) + " ms",
                note=f"{_REQUESTS_PER_S} requests/s came, {served / lasted_s:.0f}/s were answered; from their arrival, "
                f"p50 {median(took) * 1e3:.1f} ms",
            )
        )
    return outcome


def _filled(
    settings: Settings, supervisor: pyisolate.Supervisor, policies: list[pyisolate.Policy], live: int
) -> list[Figure]:
    sandboxes, spawns = [], []
    for policy in policies:  # compiled, and their root views built
        supervisor.spawn("first", policy).close()
    try:
        for index in range(live):
            started = time.perf_counter()
            sandboxes.append(supervisor.spawn(f"live-{index}", policies[index % len(policies)]))
            spawns.append(time.perf_counter() - started)
        mixed, lasted_s = _mixed(supervisor, policies, settings.rounds(SPAWNS, 300))
    finally:
        for sandbox in sandboxes:
            sandbox.close()
    tenth = live // 10
    slope_s = (median(spawns[-tenth:]) - median(spawns[:tenth])) / (live - tenth)
    return [
        Figure(
            what=f"spawn, one after the other, {live} live at the end",
            value=median(spawns),
            unit="s",
            spread=spread(spawns) + " µs",
            note=f"first tenth {median(spawns[:tenth]) * 1e6:.0f} µs, last {median(spawns[-tenth:]) * 1e6:.0f} µs: "
            f"{slope_s * 1e9:.0f} ns longer for each one that lives",
        ),
        Figure(
            what=f"spawn + exec + close of {len(policies)} policies at random, {live} live, 2 host threads",
            value=len(mixed) / lasted_s,
            unit="/s",
            spread=f"n={len(mixed)}",
            note=f"p50 {median(mixed) * 1e3:.2f} ms, p99 {quantile(mixed, 0.99) * 1e3:.1f} ms",
        ),
    ]


def _life(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy | str = "compute") -> None:
    with supervisor.spawn("short", policy) as sandbox:
        sandbox.exec("1")


def _mixed(supervisor: pyisolate.Supervisor, policies: list[pyisolate.Policy], count: int) -> tuple[list[float], float]:
    took: list[float] = []
    order = random.Random(1)
    began = time.monotonic()

    def work() -> None:
        while len(took) < count and time.monotonic() - began < _MIXED_S:
            policy, started = order.choice(policies), time.perf_counter()
            _life(supervisor, policy)
            took.append(time.perf_counter() - started)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return took, time.monotonic() - began


def _threads(supervisor: pyisolate.Supervisor, count: int) -> tuple[list[float], float]:
    began = time.monotonic()

    def request(arrival: float) -> float:
        _life(supervisor)
        return time.monotonic() - arrival

    with ThreadPoolExecutor(_THREADS) as server:
        futures = [server.submit(request, arrival) for arrival in _arrivals(began, count, time.sleep)]
        took = [future.result() for future in futures]
    return took, time.monotonic() - began


def _arrivals(began: float, count: int, sleep: Callable[[float], object]) -> Iterable[float]:
    for index in range(count):
        arrival = began + index / _REQUESTS_PER_S
        sleep(max(0.0, arrival - time.monotonic()))
        yield arrival


def _asyncio(supervisor: pyisolate.Supervisor, count: int) -> tuple[list[float], float]:
    async def request(began: float, index: int) -> float:
        arrival = began + index / _REQUESTS_PER_S
        await asyncio.sleep(max(0.0, arrival - time.monotonic()))
        sandbox = await supervisor.aspawn("request")
        try:
            await sandbox.aexec("1")
        finally:
            await sandbox.aclose()
        return time.monotonic() - arrival

    async def serve() -> tuple[list[float], float]:
        began = time.monotonic()
        took = await asyncio.gather(*(request(began, index) for index in range(count)))
        return list(took), time.monotonic() - began

    return asyncio.run(serve())
