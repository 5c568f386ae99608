"""The assertions for users' tests pass and fail for the right reasons. The sandbox is made up here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyisolate.decision import Verdict
from pyisolate.errors import GuestError, PolicyError, SandboxDied
from pyisolate.testing import assert_allowed, assert_denied


def event(name: str = "1", **fields: Any) -> Any:
    given = {
        "event_id": name,
        "count": 1,
        "capability": "fs.read",
        "target": "/etc/shadow",
        "code": "NOT_GRANTED",
        "broker_decision": Verdict.DENY,
        "kernel_decision": Verdict.NOT_REACHED,
    }
    return SimpleNamespace(**(given | fields))


class Guest:
    """Runs nothing: `exec` brings the events and raises what it was given."""

    def __init__(self, *events: Any, raises: Exception | None = None, before: tuple[Any, ...] = ()) -> None:
        self.stored = list(before)
        self.coming = events
        self.raises = raises

    def exec(self, source: str, *, timeout: float | None = None) -> Any:
        known = {one.event_id for one in self.coming}
        self.stored = [one for one in self.stored if one.event_id not in known] + list(self.coming)
        if self.raises is not None:
            raise self.raises
        return "result"

    def get_denial_events(self) -> list[Any]:
        return list(self.stored)


def test_a_denial_is_found_whether_or_not_the_guest_caught_it() -> None:
    refused = event()
    assert assert_denied(Guest(refused), "x", capability="fs.read", target="/etc/*") is refused
    raised = PolicyError("refused", denial_event=refused)
    assert assert_denied(Guest(refused, raises=raised), "x", code="NOT_GRANTED") is refused


def test_the_errors_own_event_counts_when_the_store_has_lost_it() -> None:
    refused = event()
    guest = Guest(raises=PolicyError("refused", denial_event=refused))
    assert assert_denied(guest, "x") is refused


def test_a_repeated_denial_counts_again_and_an_old_one_does_not() -> None:
    assert assert_denied(Guest(event(count=2), before=(event(count=1),)), "x")
    with pytest.raises(AssertionError, match="nothing was denied"):
        assert_denied(Guest(before=(event(),)), "x")


@pytest.mark.parametrize("other", [{"capability": "net.connect"}, {"target": "/etc/group"}, {"code": "ALWAYS_DENIED"}])
def test_another_denial_is_not_the_expected_one(other: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="denied instead"):
        assert_denied(Guest(event(**other)), "x", capability="fs.read", target="/etc/shadow", code="NOT_GRANTED")


def test_an_ordinary_exception_is_no_denial() -> None:
    with pytest.raises(AssertionError, match=r"another reason.*ZeroDivisionError"):
        assert_denied(Guest(raises=GuestError("ZeroDivisionError", "division by zero", "")), "1/0")


def test_what_monitor_mode_lets_through_is_neither_denied_nor_allowed() -> None:
    would = event(broker_decision=Verdict.WOULD_DENY)
    with pytest.raises(AssertionError, match="monitor mode"):
        assert_denied(Guest(would), "x")
    with pytest.raises(AssertionError, match="to be allowed"):
        assert_allowed(Guest(would), "x")


def test_allowed_returns_the_result_and_fails_on_exceptions_and_denials() -> None:
    assert assert_allowed(Guest(), "x") == "result"
    with pytest.raises(AssertionError, match="failed: guest raised ValueError"):
        assert_allowed(Guest(raises=GuestError("ValueError", "bad", "")), "x")
    with pytest.raises(AssertionError, match="but:"):
        assert_allowed(Guest(event()), "x")
    assert assert_allowed(Guest(event()), "x", capability="net.connect") == "result"


def test_a_sandbox_that_dies_is_not_mistaken_for_a_denial() -> None:
    with pytest.raises(SandboxDied):
        assert_denied(Guest(raises=SandboxDied("it died")), "x")
