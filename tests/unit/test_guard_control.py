"""Control operations need the token once one is set; it is in no output."""

from __future__ import annotations

import gc
import pickle
import traceback
from collections.abc import Iterator

import pytest

from pyisolate.errors import PolicyAuthError, PolicyError
from pyisolate.records import SandboxContext
from pyisolate.supervisor import control_token as control
from pyisolate.supervisor.control_token import check_token, set_policy_token, token_required
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import HOST, Recorder

TOKEN = "-".join(["correct", "horse", "battery", "staple"])
WRONG = "wrong-" + "x" * 20


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(metrics=Metrics(), sinks=(), alerts=None)
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def _token() -> Iterator[None]:
    assert not token_required()
    set_policy_token(TOKEN)
    yield
    control._digest = None


def test_the_right_token_passes(recorder: Recorder) -> None:
    check_token(TOKEN, "reload", recorder=recorder)
    assert recorder.metrics.denials.total() == 0


@pytest.mark.parametrize("token", [None, "", WRONG, TOKEN[:-1], TOKEN + " ", "\udc80"])
@pytest.mark.parametrize("operation", ["reload", "kill", "metrics"])
def test_any_other_is_refused_recorded_and_shown_nowhere(recorder: Recorder, token: str | None, operation: str) -> None:
    with pytest.raises(PolicyAuthError) as caught:
        check_token(token, operation, target="policy p", recorder=recorder)
    assert isinstance(caught.value, PolicyError)
    (event,) = recorder.events_of(HOST)
    assert caught.value.denial_event == event
    assert (event.capability.value, event.code.value) == (f"control.{operation}", "TOKEN_INVALID")
    assert event.reported_by.value == "supervisor"
    assert recorder.metrics.denials.total() == 1
    output = str(caught.value) + event.to_json() + "".join(traceback.format_exception(caught.value))
    assert TOKEN not in output
    if token and len(token) > 5:
        assert token not in output


def test_the_sandbox_it_was_about_is_named(recorder: Recorder) -> None:
    context = SandboxContext(
        sandbox="report", sandbox_id="s-1", policy="p", policy_version="v", policy_generation=1, isolation="process"
    )
    with pytest.raises(PolicyAuthError, match="report"):
        check_token(None, "kill", context=context, recorder=recorder)
    store = recorder.open("s-1")
    with pytest.raises(PolicyAuthError):
        check_token(None, "kill", context=context, recorder=recorder)
    assert store.events()[0].sandbox == "report"


def test_without_a_token_operations_are_free(recorder: Recorder) -> None:
    set_policy_token(None, current=TOKEN)
    check_token(None, "reload", recorder=recorder)
    assert not token_required()


@pytest.mark.parametrize("current", [None, WRONG])
def test_a_token_is_replaced_only_by_who_knows_it(current: str | None) -> None:
    for new in (None, "n" * 20):
        with pytest.raises(PolicyAuthError):
            set_policy_token(new, current=current)
    set_policy_token("n" * 20, current=TOKEN)
    check_token("n" * 20, "reload")
    with pytest.raises(PolicyAuthError):
        check_token(TOKEN, "reload")


@pytest.mark.parametrize("token", ["", "short", 7, b"x" * 20])
def test_a_weak_token_is_refused_and_not_shown(token: object) -> None:
    with pytest.raises(ValueError, match="at least 16") as caught:
        set_policy_token(token, current=TOKEN)  # type: ignore[arg-type]
    assert "short" not in str(caught.value)


def test_only_a_hash_is_kept() -> None:
    kept = vars(control)
    text = repr(kept) + "".join(repr(v) for v in kept.values() if isinstance(v, bytes | str))
    assert TOKEN not in text
    assert TOKEN.encode() not in pickle.dumps({k: v for k, v in kept.items() if isinstance(v, bytes | str)})
    gc.collect()


def test_an_unknown_operation_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        check_token(TOKEN, "reboot")
