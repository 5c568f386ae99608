"""What native code is refused becomes an event, by default and with full telemetry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes

RAW = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def opened(path):
    descriptor = libc.open(path.encode(), 0)
    return descriptor >= 0
"""


@pytest.mark.parametrize("telemetry", ["default", "full"])
def test_a_refusal_of_native_code_is_an_event(tmp_path: Path, telemetry: Literal["default", "full"]) -> None:
    secret, granted = tmp_path / "secret", tmp_path / "granted"
    for file in (secret, granted):
        file.write_text("x")
        file.chmod(0o644)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(directory, 0o755)
    policy = with_ctypes().allow_read(granted)
    with pyisolate.Supervisor(pool_size=1, telemetry=telemetry) as supervisor, supervisor.spawn("n", policy) as sandbox:
        sandbox.exec(RAW)
        assert sandbox.eval(f"opened({str(granted)!r})") is True
        assert sandbox.get_denial_events() == []
        assert sandbox.eval(f"opened({str(secret)!r})") is False
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target) == ("fs.read", str(secret))
    assert event.kernel_decision == "deny"
    assert event.broker_decision in ("unavailable", "not_consulted")
    assert event.suggestion == {"fs": [{"path": str(secret), "allow": ["read"]}]}
    assert event.reported_by != "guest", "no guest said so"


def test_what_was_granted_speaks_of_one_open_and_one_name(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    """The repeat is left out of an open that the broker has just granted and that finds nothing; of no other."""
    granted, secret = tmp_path / "given", tmp_path / "taken"
    for directory in (granted, secret, *tmp_path.parents[:2], tmp_path):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
    hidden, absent = secret / "abcdefgh", granted / "abcdefgh"  # as long, and with the same end
    hidden.write_text("x")
    with supervisor.spawn("n", with_ctypes().allow_read(granted)) as sandbox:
        sandbox.exec(RAW)
        sandbox.exec(f"import sys\nabsent, hidden = {str(absent)!r}, {str(hidden)!r}")
        sandbox.exec("try: open(absent)\nexcept FileNotFoundError: pass\nelse: raise SystemExit(1)")
        assert sandbox.get_denial_events() == []
        for announced in ("absent", "hidden.replace('taken', 'given')"):
            assert sandbox.exec(f"sys.audit('open', {announced}, 'r', 0); opened(hidden)").denials, announced
        assert sandbox.exec("try: open(absent)\nexcept FileNotFoundError: opened(hidden)").denials, "the next call"
        (event,) = {(one.capability, one.target, one.broker_decision) for one in sandbox.get_denial_events()}
    assert event[:2] == ("fs.read", str(hidden))
