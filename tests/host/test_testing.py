"""The assertions for users' tests, against real sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.testing import assert_allowed, assert_denied, sandbox_fixture

pytestmark = pytest.mark.core

SECRET = Path(__file__).with_name("conftest.py")


def readable(request: pytest.FixtureRequest) -> Policy:
    return Policy.preset("compute").allow_read("/usr/share/common-licenses")


sandbox = sandbox_fixture(readable)


def test_what_is_granted_is_allowed_and_what_is_not_is_denied(sandbox: pyisolate.Sandbox) -> None:
    granted = "open('/usr/share/common-licenses/Apache-2.0').read(6)"
    assert assert_allowed(sandbox, granted).value is not None
    refused = f"open({str(SECRET)!r}).read(6)"
    event = assert_denied(sandbox, refused, capability="fs.read", target=str(SECRET))
    assert event.sandbox == "test"
    with pytest.raises(AssertionError, match="nothing was denied"):
        assert_denied(sandbox, granted)
    with pytest.raises(AssertionError, match="to be allowed"):
        assert_allowed(sandbox, refused)


def test_a_denial_that_the_guest_catches_is_seen(sandbox: pyisolate.Sandbox) -> None:
    source = f"try: open({str(SECRET)!r})\nexcept OSError: pass"
    assert_denied(sandbox, source, capability="fs.read")


def test_a_limit_is_a_denial(sandbox: pyisolate.Sandbox) -> None:
    assert_denied(sandbox, "while True: pass", capability="limit.wall", code="LIMIT_EXCEEDED", timeout=0.3)
