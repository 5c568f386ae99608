"""Files: every hook allows what is granted, refuses what is not, and refuses everything after the sandbox's end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from guests import Guest, policy

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict

Make = Callable[..., Guest]


def test_reading_is_decided_by_path(guest: Make, files: Path) -> None:
    one = guest(policy({files / "granted": "r"}))
    assert one.allowed(f"open('{files}/granted/f').read()") == "'granted'"
    record = one.refused(f"open('{files}/secret/f').read()")
    assert record.capability is Capability.FS_READ
    assert record.target == f"{files}/secret/f"
    assert record.hook == "file_open"
    assert record.verdict is Verdict.DENY
    assert record.code is DenialCode.SCOPE_INSUFFICIENT
    assert record.syscall == "openat"
    assert record.pid == one.pid


def test_the_host_is_not_confined(guest: Make, files: Path) -> None:
    one = guest(policy({}))
    one.refused(f"open('{files}/granted/f')")
    assert (files / "granted/f").read_text() == "granted"
