"""Two records, one event: every combination says what is known and nothing more."""

from __future__ import annotations

import itertools
import json

import jsonschema
import msgspec
import pytest

from pyisolate.capability import FLOOR, Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.policy.compiled import FsRule
from pyisolate.policy.suggest import suggestion
from pyisolate.records import REFUSALS, Evaluation, Reporter, is_denial
from pyisolate.telemetry.merge import disagree, merge
from pyisolate.telemetry.schema import load_schema
from tests.telemetry_events import CONTEXT, broker, kernel

DENY, ALLOW, WOULD = Verdict.DENY, Verdict.ALLOW, Verdict.WOULD_DENY


def test_a_broker_denial_never_reached_the_kernel() -> None:
    event = merge(CONTEXT, broker(), None)
    assert (event.broker_decision, event.kernel_decision) == (DENY, Verdict.NOT_REACHED)
    assert (event.kernel_evaluation, event.reported_by) == (Evaluation.NONE, Reporter.GUEST)
    assert event.kernel_errno is None
    assert not event.would_deny


@pytest.mark.parametrize("code", [None, 24])
def test_a_limit_that_the_guest_reports_was_the_kernels_and_no_question_for_the_broker(code: int | None) -> None:
    record = broker(capability=Capability.LIMIT_MEMORY, target="9", code=DenialCode.LIMIT_EXCEEDED, errno=code)
    event = merge(CONTEXT, record, None)
    assert (event.broker_decision, event.kernel_decision) == (Verdict.NOT_CONSULTED, DENY)
    assert (event.kernel_errno, event.reported_by) == (code, Reporter.GUEST)
    assert event.kernel_reason.startswith("the guest reports it")
    own = merge(CONTEXT, record, kernel(capability=Capability.LIMIT_MEMORY, code=DenialCode.LIMIT_EXCEEDED))
    assert own.reported_by is Reporter.KERNEL


def test_nothing_is_suggested_for_a_granted_name_that_has_no_address() -> None:
    context = msgspec.structs.replace(CONTEXT, unresolved=("gone.internal",))
    proxied = broker(capability=Capability.NET_HTTP, target="CONNECT gone.internal:443")
    assert merge(context, proxied, None, suggest=suggestion).suggestion is None
    assert merge(CONTEXT, proxied, None, suggest=suggestion).suggestion is not None  # the control
    for target, found in (
        ("Gone.internal.:80", None),
        ("other.internal:80", {"net": [{"connect": "other.internal:80"}]}),
    ):
        record = broker(capability=Capability.NET_CONNECT, target=target)
        assert merge(context, record, None, suggest=suggestion).suggestion == found


@pytest.mark.parametrize("verdict", [DENY, ALLOW])
def test_a_probed_verdict_is_shown_as_probed(verdict: Verdict) -> None:
    event = merge(CONTEXT, broker(), kernel(verdict=verdict, evaluation=Evaluation.PROBED, errno=0, tid=0))
    assert (event.kernel_decision, event.kernel_evaluation) == (verdict, Evaluation.PROBED)
    assert event.reported_by is Reporter.GUEST  # a probe does not prove that the guest asked
    assert disagree(event) is (verdict is ALLOW)


@pytest.mark.parametrize(
    ("consulted", "slot", "expected"),
    [
        (False, None, Verdict.NOT_CONSULTED),
        (False, ALLOW, Verdict.NOT_CONSULTED),
        (None, None, Verdict.UNAVAILABLE),
        (True, None, Verdict.UNAVAILABLE),
        (True, ALLOW, ALLOW),
        (True, DENY, DENY),
    ],
)
def test_a_kernel_denial_says_what_is_known_of_the_broker(
    consulted: bool | None, slot: Verdict | None, expected: Verdict
) -> None:
    event = merge(CONTEXT, None, kernel(broker_consulted=consulted, slot_verdict=slot, sequence=9))
    assert (event.broker_decision, event.kernel_decision) == (expected, DENY)
    assert event.broker_reason
    assert event.reported_by is Reporter.KERNEL
    assert disagree(event) is (expected is ALLOW)


@pytest.mark.parametrize("errno", [1, 13])
def test_an_errno_at_the_hook_is_a_kernel_denial(errno: int) -> None:
    event = merge(
        CONTEXT, broker(verdict=ALLOW, errno=errno, syscall="openat"), None, suggest=lambda one: {"x": one.target}
    )
    assert (event.broker_decision, event.kernel_decision) == (ALLOW, DENY)
    assert (event.kernel_evaluation, event.kernel_errno, event.syscall) == (Evaluation.ERRNO, errno, "openat")
    assert event.suggestion is None  # the policy allows it already
    assert disagree(event)


@pytest.mark.parametrize("record", [broker(verdict=ALLOW), broker(verdict=ALLOW, errno=2)])
def test_what_nobody_refused_is_no_event(record: object) -> None:
    assert not is_denial(record)
    with pytest.raises(ValueError, match="neither layer refused"):
        merge(CONTEXT, record, kernel(verdict=ALLOW))


def test_monitor_mode_keeps_the_reason_and_says_why_the_kernel_is_silent() -> None:
    event = merge(CONTEXT, broker(verdict=WOULD), None, kernel_unavailable_reason="Landlock cannot only watch")
    assert event.would_deny
    assert event.would_deny_reason == "no rule grants it"
    assert event.mode is Mode.MONITOR
    assert (event.kernel_decision, event.kernel_reason) == (Verdict.UNAVAILABLE, "Landlock cannot only watch")


def test_the_kernels_facts_win_over_the_guests_story() -> None:
    event = merge(
        CONTEXT,
        broker(verdict=ALLOW, target="/tmp/harmless", tid=1, rule="forged", count=50),
        kernel(tid=4242, pid=4241, rule="none grants it", generation=3),
    )
    assert (event.target, event.tid, event.pid, event.policy_rule) == ("/etc/shadow", 4242, 4241, "none grants it")
    assert (event.count, event.policy_generation) == (1, 3)
    assert event.reported_by is Reporter.KERNEL
    assert event.origin == "job.py:3 in main"


@pytest.mark.parametrize("capability", sorted(FLOOR))
def test_the_floor_is_always_denied_and_never_suggested(capability: Capability) -> None:
    event = merge(CONTEXT, None, kernel(capability=capability), suggest=lambda one: {"bad": 1})
    assert event.code is DenialCode.ALWAYS_DENIED
    assert event.suggestion is None


def test_a_failing_suggestion_never_hides_the_denial() -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no idea")

    assert merge(CONTEXT, broker(), None, suggest=broken).suggestion is None


def test_a_target_that_is_no_plain_text_has_no_suggestion_but_is_kept() -> None:
    event = merge(CONTEXT, broker(target="/srv/\udcff\n"), None, suggest=lambda one: {"path": one.target})
    assert (event.target, event.suggestion) == ("/srv/\\xff\\x0a", None)
    assert merge(CONTEXT, broker(), None, suggest=lambda one: {"path": one.target}).suggestion == {
        "path": "/etc/shadow"
    }


def test_no_suggestion_is_an_ancestor_of_a_grant() -> None:
    files = tuple(
        FsRule(path=path, allow=allow)
        for path, allow in (("/", 0), ("/srv/a", 1), ("/srv/a-b/c", 1), ("/srv/b", 1), ("/srv/d/e", 0))
    )
    context = msgspec.structs.replace(CONTEXT, files=files)

    def suggested(path: str) -> object:
        record = broker(capability=Capability.FS_READ, target=path)
        return merge(context, record, None, suggest=suggestion).suggestion

    assert all(suggested(path) is None for path in ("/", "/srv", "/srv/a-b"))
    for path in ("/srv/a/x", "/srv/a-", "/srv/c", "/srv/d", "/sr"):
        assert suggested(path) == {"fs": [{"path": path, "allow": ["read"]}]}
    assert suggested("/srv/a") is suggested("/srv/b") is None, "the policy has the rule: something else refused"


def test_no_suggestion_leaves_a_place_denied_what_is_granted_above() -> None:
    """No root view takes reading from what may be written; a file of its own below the denied place may be granted."""
    denied = FsRule(path="/srv/no", allow=0, deny=1, text="fs: {path: /srv/no, deny: [read]}")
    made, written = (Capability.FS_CREATE, "/srv/no/new"), (Capability.FS_WRITE, "/srv/no/file")
    for above, wanted, works in ((1, made, False), (0, made, True), (1, written, True)):
        files = (FsRule(path="/srv", allow=above), denied)
        record = broker(capability=wanted[0], target=wanted[1])
        event = merge(msgspec.structs.replace(CONTEXT, files=files), record, None, suggest=suggestion)
        assert (event.suggestion is not None) is works


def test_the_supervisors_own_limits_are_its_report() -> None:
    event = merge(CONTEXT, None, kernel(enforcer="supervisor", capability=Capability.LIMIT_CPU, hook="watchdog"))
    assert event.reported_by is Reporter.SUPERVISOR
    assert event.code is DenialCode.LIMIT_EXCEEDED


def test_a_guests_clock_cannot_point_outside_of_the_past() -> None:
    event = merge(CONTEXT, broker(monotonic_ns=2**62), None)
    assert event.monotonic_ns < 2**62


SCHEMA = jsonschema.Draft202012Validator(load_schema())
TEXTS = ["/etc/shadow", "", "\x00\x1b[2J", "\udc80\ud800", "\\", "x" * 10_000]


@pytest.mark.parametrize("text", TEXTS)
def test_every_combination_is_valid_and_safe(text: str) -> None:
    brokers = [
        None,
        *(broker(verdict=v, target=text, origin=text, errno=e) for v in (DENY, WOULD, ALLOW) for e in (None, 13)),
    ]
    kernels = [
        None,
        *(
            kernel(verdict=v, evaluation=e, target=text, broker_consulted=c, reason=text, slot_verdict=s)
            for v in (DENY, WOULD, ALLOW)
            for e in Evaluation
            for c in (None, False, True)
            for s in (None, ALLOW)
        ),
    ]
    seen = 0
    for one, other in itertools.product(brokers, kernels):
        if not is_denial(one, other):
            continue
        event = merge(CONTEXT, one, other, suggest=lambda one: {"path": one.target})
        seen += 1
        SCHEMA.validate(event.to_dict())
        assert json.loads(event.to_json()) == event.to_dict()
        assert str(event).isprintable()
        assert len(event.to_json()) < 40_000
        assert REFUSALS & {event.broker_decision, event.kernel_decision}
        if event.would_deny:
            assert Verdict.DENY not in (event.broker_decision, event.kernel_decision)
            assert event.would_deny_reason
        if other is None and (one is None or one.errno is None):
            assert event.kernel_decision in (Verdict.NOT_REACHED, Verdict.UNAVAILABLE)
            assert event.kernel_reason
    assert seen > 300


@pytest.mark.parametrize(
    "records", [(broker(verdict=WOULD, shadow=True), None), (None, kernel(verdict=WOULD, shadow=True))]
)
def test_what_the_shadow_policy_decided_says_so(records: tuple[object, object]) -> None:
    event = merge(CONTEXT, *records)
    assert (event.shadow, event.would_deny, event.mode) == (True, True, Mode.MONITOR)
