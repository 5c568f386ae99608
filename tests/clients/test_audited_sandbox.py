"""The audit log of a real supervisor: killed at any moment, and on a disk that is full."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.telemetry.sinks.audit_reader import read_events
from tests.require import require

ROOT = Path(__file__).parents[2]

SUPERVISED = """
import sys
import pyisolate
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.recorder import Recorder

recorder = Recorder(audit=AuditLog(sys.argv[1], fsync="never"), sinks=())
with pyisolate.Supervisor(pool_size=1, recorder=recorder) as supervisor:
    with supervisor.spawn("noisy", pyisolate.Policy.preset("compute")) as sandbox:
        print("ready", flush=True)
        for number in range(1000):
            try:
                sandbox.exec(f"open('/etc/secret-{number}')")
            except pyisolate.PolicyError as error:
                print(error.denial_event.event_id, flush=True)
"""

FULL_DISK = """
import errno, os, sys
from tests.telemetry_events import event
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.sinks.audit_reader import read_events

directory = sys.argv[1]
filler = os.path.join(directory, "filler")
log = AuditLog(os.path.join(directory, "log"), metrics=Metrics())
log.emit(event(target="/0"))
with open(filler, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(512))
    except OSError as error:
        assert error.errno == errno.ENOSPC
failed = 0
for number in range(1, 20):
    try:
        log.emit(event(target=f"/{number}"))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        failed += 1
assert failed > 5, failed
os.unlink(filler)
log.emit(event(target="/20"))
log.close()
targets = [e.target for e in read_events(log.path)]
assert targets == [f"/{n}" for n in range(21)], targets
print("ok")
"""


def python(code: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*before, sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)


@pytest.fixture
def _tidied() -> Iterator[None]:
    """A supervisor that starts removes the control groups of one that was killed."""
    yield
    time.sleep(0.3)  # until its cells are gone with it
    code = "import pyisolate\nwith pyisolate.Supervisor(pool_size=1) as s: s.start()"
    child = python(code)
    child.communicate(timeout=30)
    assert child.returncode == 0


@pytest.mark.usefixtures("_tidied")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_supervisor_leaves_whole_lines_and_every_event_it_showed(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "audit.jsonl"
    child = python(SUPERVISED, str(path))
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    shown = [child.stdout.readline().strip() for _ in range(random.Random(seed).randrange(1, 700))]
    child.send_signal(signal.SIGKILL)
    shown += child.stdout.read().split("\n")[:-1]
    child.stdout.close()
    child.wait()
    assert all(shown)
    logged = [event.event_id for event in read_events(path)]
    assert set(shown) <= set(logged)
    assert len(logged) == len(set(logged))
    assert path.read_bytes().count(b"\n") >= len(logged) - 1


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    require("mount", os.geteuid() == 0 and shutil.which("unshare") is not None, "needs root and unshare")
    mount = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$@"'
    child = python(FULL_DISK, str(tmp_path), before=("unshare", "--mount", "sh", "-c", mount, "sh"))
    output, _ = child.communicate(timeout=30)
    assert (child.returncode, output) == (0, "ok\n")
