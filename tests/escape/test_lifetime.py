"""A run of the techniques leaves no process and no file behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.configurations import CONFIGURATIONS, ROOT
from tests.escape.ground import Ground
from tests.leaks import children_of

#: Of a slow machine: the worker's own grace is half of it.
PATIENCE_S = 60.0


def below(pid: int) -> Iterator[int]:
    """Yield every descendant."""
    for child in children_of(pid):
        yield child
        yield from below(child)


def alive(pids: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those that are still the same process, and no corpse."""
    return {(pid, started) for pid, started in pids if started_at(pid) == started}


def started_at(pid: int) -> int:
    """Return when a process was started; 0 for one that has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if words[0] in "ZX" else int(words[19])


def run_until_attacks(name: str) -> tuple[subprocess.Popen[str], set[tuple[int, int]]]:
    """Start a run; return it and its descendants once a guest attacks."""
    judge = subprocess.Popen(
        [sys.executable, "-m", "tests.escape", "--in", name, "--only", "files/", "--verbose"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert judge.stderr is not None
    while ": stopped" not in (line := judge.stderr.readline()):  # one is through: what a run starts is started
        if not line:
            judge.kill()
            pytest.fail(f"the run ended: {judge.wait()}")
    found = {(pid, started_at(pid)) for pid in below(judge.pid)}
    assert len(found) >= 2, "a victim and a supervisor"
    return judge, found


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("host-root", signal.SIGINT),
        ("host-root", signal.SIGTERM),
        ("host-root", signal.SIGKILL),
        ("host-user", signal.SIGKILL),
        ("thread", signal.SIGTERM),
        ("thread", signal.SIGKILL),
    ],
)
def test_nothing_outlives_a_run_that_is_ended(name: str, number: signal.Signals) -> None:
    if CONFIGURATIONS[name].left_out():
        pytest.skip(CONFIGURATIONS[name].left_out())
    judge, found = run_until_attacks(name)
    with judge:
        judge.send_signal(number)
        deadline = time.monotonic() + PATIENCE_S
        judge.communicate(timeout=PATIENCE_S)
    while (left := alive(found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid, _ in left]
    assert number == signal.SIGKILL or not list(Path("/tmp").glob(f"escape-{judge.pid}-*"))


def test_the_next_run_removes_what_a_killed_one_left() -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    left = Path(f"/tmp/escape-{gone.pid}-left")
    left.mkdir()
    (left / "file").touch()
    own = set(Path("/tmp").glob(f"escape-{os.getpid()}-*"))  # that of the session, where other tests ran before
    with Ground():
        assert not left.exists()
    assert set(Path("/tmp").glob(f"escape-{os.getpid()}-*")) == own
