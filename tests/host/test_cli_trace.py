"""`pyisolate trace` without a name lists one's own sandboxes, and no cell that waits to be one."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

import pyisolate
from pyisolate.cli.trace import trace

pytestmark = pytest.mark.usefixtures("kept_supervisor")


def test_warm_cells_are_no_sandboxes(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("named") as sandbox, supervisor.spawn("other"):
        done = CliRunner().invoke(trace, ["--json"])
        rows = [row for row in json.loads(done.output) if row["supervisor_pid"] == os.getpid()]
        assert sorted(row["name"] for row in rows) == ["named", "other"]
        assert sandbox.pid in [row["pid"] for row in rows]


def test_an_absent_sandbox_is_named_as_it_was_asked_for(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("truth"):
        done = CliRunner().invoke(trace, ["nosuch"])
    assert done.exit_code == 1
    assert "pyisolate: trace nosuch: there is no such sandbox" in done.output
    assert "truth (" in done.output


def test_what_a_guest_calls_itself_is_shown_and_not_obeyed(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("named", pyisolate.Policy.preset("compute").allow_import("ctypes")) as sandbox:
        sandbox.exec("import ctypes\nctypes.CDLL(None).prctl(15, b'\\x1b[2J\\n9 root', 0, 0, 0)")
        shown = CliRunner().invoke(trace, [], color=True).output
        assert "\x1b" not in shown
        assert "\\x1b[2J\\x0a9 root" in shown
        assert "\x1b" not in CliRunner().invoke(trace, ["nosuch"], color=True).output
