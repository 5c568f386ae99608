"""Clock jumps. The wall clock cannot be set here without setting everybody's, and a time namespace shifts only the
monotonic clock, of processes that are born into it. So: the host's reading of the wall clock is faked to jump, a
supervisor and its guests run with a monotonic clock that is a year off, and no deadline may be computed from the wall
clock at all.
"""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import subprocess
import sys
import time

import pytest

import pyisolate
from tests.faults.orphans import TREE
from tests.require import require

#: Where the wall clock is what is wanted: dates that are shown, compared with files' dates, or written.
DATES = {
    "telemetry/sinks/audit.py": "the names and ages of rotated files",
    "telemetry/merge.py": "the time that an event shows, and its id",
    "telemetry/alerts.py": "the time that an alert shows",
    "kernel/bpf/cgroup.py": "the age of a dead host's probe group, which its file system dates by that clock",
    "kernel/directories.py": "whether a directory was changed lately, which its file system dates by that clock",
    "kernel/seen_names.py": "whether a call made the file, which its file system dates by that clock",
    "telemetry/counters.py": "when a counter was made, and when an exemplar was seen",
    "telemetry/shared_metrics.py": "when a value in a file was written",
    "telemetry/readings.py": "when a counter was made",
    "cli/event_source.py": "the time that a reader asks about",
    "egress/bundles.py": "the age of what a dead host left, which its file system dates by that clock",
    "environments/environment.py": "when an environment was built",
}


def test_jumps_of_the_wall_clock_change_nothing(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, itertools.cycle((0, 86400 * 365, -86400 * 3650, 3600))
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + next(jumps) * 10**9)
    with supervisor.spawn("under jumps") as sandbox:
        for _ in range(20):
            assert sandbox.eval("1 + 1", timeout=5) == 2
        started = time.monotonic()
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.recv(timeout=0.3)
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("while True: pass", timeout=0.5)
        assert 0.7 < time.monotonic() - started < 5
        # Order is by arrival; the dates say what the clock said.
        assert sandbox.get_denial_events()[0].target == "/etc/shadow"


def test_no_deadline_reads_the_wall_clock() -> None:
    found = set()
    for path in (TREE / "pyisolate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
                found.add(str(path.relative_to(TREE / "pyisolate")))
    assert found == set(DATES)


def test_a_monotonic_clock_a_year_off() -> None:
    """All of it in a time namespace (time_namespaces(7), 5.6): host, zygote and cells share one shifted clock."""
    require(
        "time namespace", os.geteuid() == 0 and bool(shutil.which("unshare")), "needs root and util-linux's unshare"
    )
    program = (
        "import time, pyisolate\n"
        "with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn('late') as sandbox:\n"
        "    assert sandbox.eval('1 + 1', timeout=5) == 2\n"
        "    inside = sandbox.eval('__import__(\"time\").monotonic()')\n"
        "    assert abs(inside - time.monotonic()) < 5, inside\n"
        "    try:\n"
        "        sandbox.exec('while True: pass', timeout=0.4)\n"
        "    except pyisolate.TimeoutError:\n"
        "        print('in time', time.monotonic() > 86400 * 365)\n"
    )
    shifted = subprocess.run(
        ["unshare", "--time", "--fork", "--monotonic=31536000", "--boottime=31536000", sys.executable, "-c", program],
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in shifted.stderr and shifted.returncode:
        require("time_namespace", False, shifted.stderr.strip())
    assert (shifted.stdout, shifted.returncode) == ("in time True\n", 0), shifted.stderr
