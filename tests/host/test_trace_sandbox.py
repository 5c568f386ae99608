"""`sandbox.trace()` and `pyisolate trace`: bcc counts what one sandbox calls, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import pyisolate
from pyisolate.kernel.trace import Tracer, TraceUnavailable
from tests.require import require


@pytest.fixture(scope="module", autouse=True)
def _needs_bcc() -> None:
    require("bcc", os.geteuid() == 0, "tracing needs root")
    try:
        Tracer().close()
    except TraceUnavailable as error:
        require("bcc", False, str(error))


@pytest.mark.leaks("bcc keeps its compiler's state and descriptors for the life of the process")
def test_a_trace_counts_the_calls_of_its_sandbox(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("traced") as sandbox, supervisor.spawn("other") as other:
        with sandbox.trace() as tracer:
            sandbox.exec("import os\nfor _ in range(500): os.getppid()")
            other.exec("import os\nfor _ in range(500): os.getpgid(0)")
            report = tracer.report()
        counts = {call.syscall: call for call in report.calls}
        assert counts["getppid"].count >= 500
        assert counts["getppid"].mean_ns > 0
        assert counts.get("getpgid") is None or counts["getpgid"].count < 500


@pytest.mark.leaks("bcc keeps its compiler's state and descriptors for the life of the process")
def test_the_command_finds_a_sandbox_by_its_name(supervisor: pyisolate.Supervisor) -> None:
    command = [sys.executable, "-m", "pyisolate.cli.main", "trace", "named", "--seconds", "1"]
    with supervisor.spawn("named") as sandbox:
        thread = threading.Thread(
            target=lambda: sandbox.exec("import os, time\nend = time.time() + 4\nwhile time.time() < end: os.getppid()")
        )
        thread.start()
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        thread.join()
        assert done.returncode == 0, done.stderr
        assert "getppid" in done.stdout
        missing = subprocess.run([*command[:4], "nobody"], capture_output=True, text=True, timeout=60, check=False)
        assert missing.returncode == 1
        assert "there is no such sandbox" in missing.stderr
        assert "named" in missing.stderr
