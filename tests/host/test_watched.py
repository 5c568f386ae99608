"""What native code is refused becomes an event, by default and with full telemetry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

import pyisolate
from pyisolate import Policy

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
    policy = Policy.preset("compute").allow_read(granted)
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
