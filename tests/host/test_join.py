"""The exact join: interpreter operations and raw system calls, mixed over threads, are told apart without a mistake."""

from __future__ import annotations

import collections
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.require import require

OPERATIONS, THREADS, PLACES = 10_000, 4, 40
GUEST = """
import ctypes, os, random, threading
libc = ctypes.CDLL(None, use_errno=True)
done = []

def work(seed, count, base, places):
    rng, mine = random.Random(seed), {}
    for _ in range(count):
        kind = rng.choice(["py_ok", "py_no", "raw_ok", "raw_no"])
        path = f"{base}/x{rng.randrange(places)}" + ("/y" if kind.endswith("ok") else "")
        if kind.startswith("py"):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except PermissionError:
                descriptor = -1
        else:
            descriptor = libc.syscall(257, -100, path.encode(), 0, 0)
        assert (descriptor >= 0) == kind.endswith("ok"), (kind, path)
        if descriptor >= 0:
            libc.close(descriptor)
        else:
            mine[f"{path} {kind}"] = mine.get(f"{path} {kind}", 0) + 1
    done.append(mine)

def run(threads, count, base, places):
    workers = [threading.Thread(target=work, args=(n, count // threads, base, places)) for n in range(threads)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert len(done) == threads
    total = {}
    for mine in done:
        for key, count in mine.items(): total[key] = total.get(key, 0) + count
    return total
"""


@pytest.fixture
def places() -> Iterator[Path]:
    """Directories that a cell sees, because of what is granted below, and may not list."""
    base = Path(f"/tmp/pyisolate-join-{time.monotonic_ns()}")
    base.mkdir(mode=0o755)
    for number in range(PLACES):
        (base / f"x{number}" / "y").mkdir(parents=True)
    yield base
    shutil.rmtree(base)


def test_ten_thousand_operations_have_the_right_decisions_of_both_layers(places: Path) -> None:
    policy = with_ctypes().with_limits(wall="100s", cpu="100s")
    for number in range(PLACES):
        policy = policy.allow_read(str(places / f"x{number}" / "y"))
    with pyisolate.Supervisor(telemetry="full", pool_size=1, kernel_events_per_s=1_000_000) as supervisor:
        plan = inside.plan(supervisor)
        require("seccomp", plan.listener is not None or plan.bpf.decides, "no enforcer records file calls")
        asks = plan.bpf.decides
        with supervisor.spawn("join", policy) as sandbox:
            sandbox.exec(GUEST)
            wanted = sandbox.call("run", THREADS, OPERATIONS, str(places), PLACES)
            told: collections.Counter[str] = collections.Counter()
            for event in sandbox.get_denial_events():
                if event.target.startswith(str(places)):
                    kind = {"deny": "py_no", "not_consulted": "raw_no"}[event.broker_decision]
                    # only the tables of BPF-LSM say of files what the broker refused first
                    unasked = kind == "py_no" and not asks
                    kernel = "not_reached" if unasked else "deny"
                    assert (event.capability, event.kernel_decision) == ("fs.read", kernel), event
                    told[f"{event.target} {kind}"] += event.count
            mismatches = {
                key: (wanted.get(key, 0), told[key]) for key in {*wanted, *told} if wanted.get(key, 0) != told[key]
            }
            assert mismatches == {}
            assert sum(told.values()) > OPERATIONS / 3
            assert sandbox.stats.events_lost == 0
