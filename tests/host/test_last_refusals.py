"""A guest that ends, however it ends: what it was refused until then is told of."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")


#: Counts in a file, which outlives it, how often it was refused.
GUEST = """
import threading
out = open({path!r}, "r+b", buffering=0)
def run():
    count = 0
    while True:
        try:
            open(f"/etc/secret-{{count if {apart} else 0}}")
        except PermissionError:
            count += 1
        out.seek(0)
        out.write(count.to_bytes(8, "little"))
"""


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """A file that a cell may write, whatever its uid."""
    path = Path(f"/tmp/pyisolate-counted-{time.monotonic_ns()}")
    path.write_bytes(bytes(8))
    path.chmod(0o666)
    return path


def wait_for(path: Path, least: int) -> None:
    while int.from_bytes(path.read_bytes(), "little") < least:
        time.sleep(0.01)


def in_request(sandbox: pyisolate.Sandbox, source: str, path: Path, end: Callable[[], object]) -> None:
    def request() -> None:
        with contextlib.suppress(pyisolate.SandboxError):
            sandbox.exec(source + "run()")

    runner = threading.Thread(target=request)
    runner.start()
    wait_for(path, 200)
    end()
    runner.join()


@pytest.mark.parametrize("apart", [True, False], ids=["each another", "all the same"])
@pytest.mark.parametrize("how", ["close", "kill", "close when idle", "timeout", "_exit"])
def test_every_refusal_is_told_of(supervisor: pyisolate.Supervisor, counted: Path, how: str, apart: bool) -> None:
    """Of the same ones the guest reports the first, and the others as a count, which it does not get round to."""
    if not apart:
        require("seccomp", inside.plan(supervisor).listener is not None, "no listener holds the page for the count")
    path = str(counted)
    policy = Policy.preset("compute").allow_read(path).allow_write(path).with_limits(cpu="60s", wall="60s")
    source = GUEST.format(path=path, apart=apart)
    try:
        with supervisor.spawn(how, policy) as sandbox:
            if how == "close":
                in_request(sandbox, source, counted, sandbox.close)
            elif how == "kill":
                in_request(sandbox, source, counted, sandbox.kill)
            elif how == "close when idle":
                sandbox.exec(source + "threading.Thread(target=run, daemon=True).start()")
                wait_for(counted, 200)
            elif how == "timeout":
                with pytest.raises(pyisolate.TimeoutError):
                    sandbox.exec(source + "run()", timeout=0.5)
            else:
                ending = "import os, time\nthreading.Thread(target=run).start()\ntime.sleep(0.3)\nos._exit(0)"
                with pytest.raises(pyisolate.SandboxDied):
                    sandbox.exec(source + ending)
        told = sandbox.get_denial_events()
        refused = int.from_bytes(counted.read_bytes(), "little")
        assert refused >= 20  # the control: it was at it
        # it may have ended between the refusal and its own count
        assert sandbox.stats.denials - refused - (how == "timeout") in (0, 1)  # the limit is an event, too
        assert sum(event.count for event in told) + sandbox.stats.events_lost == sandbox.stats.denials
    finally:
        counted.unlink()


def test_a_forged_count_is_bounded_and_harms_nobody(supervisor: pyisolate.Supervisor) -> None:
    require("seccomp", inside.plan(supervisor).listener is not None, "no listener holds the page for the count")
    with supervisor.spawn("other") as other, supervisor.spawn("forger") as sandbox:
        with pytest.raises(pyisolate.SandboxDied):
            sandbox.exec(
                "import os, sys\n"
                "note = sys.modules['pyisolate.native.audit'].note_refusal\n"
                "for _ in range(1_000_100): note(2)\n"  # fs.read
                "[note(index) for index in (0, 1, 126, 127, 128, 1 << 20)]\n"  # nothing has these numbers
                "os._exit(0)"
            )
        told = sandbox.get_denial_events()
        assert [(event.capability, event.count, event.reported_by) for event in told] == [
            ("fs.read", 1_000_000, "guest")
        ]
        assert other.get_denial_events() == []


FORKED = """
import os
pid = os.fork()
if not pid:
    for _ in range(7):
        try: open("/etc/secret")
        except OSError: pass
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_child_reports_its_repeats_as_it_ends(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("forks", Policy.preset("compute").allow_fork()) as sandbox:
        denials = sandbox.exec(FORKED).denials
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.count) == ("fs.read", "/etc/secret", 7)
        assert event.origin is not None
        assert [(one.event_id, one.count) for one in denials] == [(event.event_id, 7)]
    assert sandbox.stats.denials == 7


#: Seven opens of a file that is there and not granted; six wait to be reported when it ends.
SEVEN = """
import os
def seven():
    for _ in range(7):
        try: open("/etc/passwd").close()
        except OSError: pass
"""
ITSELF = SEVEN + "seven()\nos._exit(3)"
IN_CHILD = SEVEN + "if not (pid := os.fork()):\n    seven()\n    os.kill(os.getpid(), 9)\nos.waitpid(pid, 0)"


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize("source", [ITSELF, IN_CHILD], ids=["the guest itself", "a child that is killed"])
def test_repeats_that_nobody_reported_are_counted_once(
    supervisor: pyisolate.Supervisor, mode: Literal["enforce", "monitor"], source: str
) -> None:
    """In monitor mode the kernel's records have told of them already."""
    require("seccomp", inside.plan(supervisor).listener is not None, "no listener holds the page for the count")
    with (
        contextlib.suppress(pyisolate.SandboxDied),
        supervisor.spawn("repeats", Policy.preset("compute").allow_fork(), mode=mode) as sandbox,
    ):
        sandbox.exec(source)
    told = [event for event in sandbox.get_denial_events() if event.capability == "fs.read"]
    assert sum(event.count for event in told) == 7
    assert {event.would_deny for event in told} == {mode == "monitor"}
