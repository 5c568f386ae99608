"""Monitor mode and shadow policies: both layers let it pass and both tell; it is told once, and all is counted."""

from __future__ import annotations

import random
import threading

import msgspec
import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.policy.suggest import suggestion
from pyisolate.records import Evaluation
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.guest_records import InvalidRecord
from pyisolate.telemetry.pipeline import SandboxTelemetry
from pyisolate.telemetry.recorder import Recorder
from tests.telemetry_events import CONTEXT, broker, kernel

MS = 1_000_000
LET = {"verdict": Verdict.WOULD_DENY, "code": None}


def _watched(recorder: Recorder) -> SandboxTelemetry:
    return SandboxTelemetry(CONTEXT, recorder, expects=[Capability.FS_READ])


@pytest.mark.parametrize("kernel_first", [True, False])
def test_what_both_layers_let_through_is_one_event(recorder: Recorder, kernel_first: bool) -> None:
    telemetry = _watched(recorder)
    if kernel_first:
        (first,) = telemetry.kernel(kernel(**LET))
        (event,) = telemetry.reported(broker(**LET))[0]
        assert event.event_id == first.event_id
    else:
        assert telemetry.reported(broker(**LET))[0] == []
        (event,) = telemetry.kernel(kernel(**LET))
    assert (event.broker_decision, event.kernel_decision, event.would_deny) == ("would_deny", "would_deny", True)
    assert event.origin == "job.py:3 in main"
    assert telemetry.settle() == []
    assert recorder.metrics.denials.total() == 1 == telemetry.store.total


def test_a_record_of_many_operations_counts_them_all_though_its_first_report_has_one(recorder: Recorder) -> None:
    telemetry = _watched(recorder)
    assert telemetry.reported(broker(**LET))[0] == []
    (event,) = telemetry.kernel(kernel(**LET, evaluation=Evaluation.PROBED, count=3))
    telemetry.reported(broker(**LET, count=2))
    assert telemetry.settle() == []
    assert (event.count, recorder.metrics.denials.total(), telemetry.store.total) == (3, 3, 3)


@pytest.mark.parametrize("first", ["kernel", "guest"])
def test_halves_that_come_at_the_same_time_are_one_event(recorder: Recorder, first: str) -> None:
    telemetry, real = _watched(recorder), recorder.record
    telemetry.reported(broker(target="/tmp/other", verdict=Verdict.WOULD_DENY))  # the control: of another operation
    telemetry.settle()

    def report() -> None:
        telemetry.reported(broker(verdict=Verdict.WOULD_DENY))
        telemetry.settle()  # the request ends

    halves = {"guest": report, "kernel": lambda: telemetry.kernel(kernel(verdict=Verdict.WOULD_DENY))}
    other = threading.Thread(target=halves["kernel" if first == "guest" else "guest"])

    def record(event: DenialEvent) -> DenialEvent:
        if not other.ident:
            other.start()
            other.join(0.1)  # what it can do while this half is being recorded
        return real(event)

    recorder.record = record  # type: ignore[method-assign]
    halves[first]()
    other.join()
    assert [event.target for event in telemetry.store.events()].count("/etc/shadow") == 1
    assert telemetry.store.total == 2


def test_a_kernel_record_that_comes_late_completes_what_was_told_alone(recorder: Recorder) -> None:
    telemetry = _watched(recorder)
    telemetry.reported(broker(**LET))
    (alone,) = telemetry.settle()
    assert alone.kernel_decision is Verdict.UNAVAILABLE
    (event,) = telemetry.kernel(kernel(**LET))
    assert (event.event_id, event.kernel_decision, event.reported_by) == (alone.event_id, "would_deny", "kernel")
    assert telemetry.store.events() == [event]
    assert recorder.metrics.denials.total() == 1


@pytest.mark.parametrize(("reported", "seen"), [(5, [1] * 5), (1, [3]), (3, [2, 4]), (4, [1, 1])])
def test_counts_of_both_layers_meet_exactly(recorder: Recorder, reported: int, seen: list[int]) -> None:
    for order in (0, 1):
        telemetry = SandboxTelemetry(
            msgspec.structs.replace(CONTEXT, sandbox_id=f"s-{order}"), recorder, expects=[Capability.FS_READ]
        )
        if order:
            telemetry.reported(broker(count=reported, **LET))
        for count in seen:
            telemetry.kernel(kernel(count=count, **LET))
        if not order:
            telemetry.reported(broker(count=reported, **LET))
        telemetry.settle()
        assert telemetry.store.total == max(reported, sum(seen))


def test_a_refusal_is_never_taken_for_what_was_let_through(recorder: Recorder) -> None:
    telemetry = _watched(recorder)
    telemetry.reported(broker(**LET))
    (event,) = telemetry.kernel(kernel())
    assert (event.broker_decision, event.kernel_decision, event.would_deny) == ("unavailable", "deny", False)
    telemetry.settle()
    assert recorder.metrics.denials.total() == 2


def test_the_shadow_policy_has_events_of_its_own(recorder: Recorder) -> None:
    telemetry = _watched(recorder)
    with pytest.raises(InvalidRecord):
        telemetry.reported(broker(shadow=True, **LET))  # there is none
    telemetry.watch(("candidate", "v2"))
    with pytest.raises(InvalidRecord):
        telemetry.reported(broker(shadow=True))  # it refuses nothing
    telemetry.reported(broker(shadow=True, **LET))
    telemetry.reported(broker(**LET))
    (own,) = telemetry.kernel(kernel(**LET))
    (other,) = telemetry.kernel(kernel(shadow=True, **LET))
    assert (own.shadow, other.shadow) == (False, True)
    assert (own.policy, other.policy, other.policy_version) == (CONTEXT.policy, "candidate", "v2")
    assert telemetry.settle() == []


@pytest.mark.parametrize("unresolved", [(), ("gone.internal",)])
def test_a_shadow_policy_suggests_no_name_that_it_grants_already(
    recorder: Recorder, unresolved: tuple[str, ...]
) -> None:
    telemetry = SandboxTelemetry(CONTEXT, recorder, suggest=suggestion)
    telemetry.watch(("candidate", "v2"), unresolved=unresolved)
    record = broker(shadow=True, capability=Capability.NET_CONNECT, target="gone.internal:443", **LET)
    telemetry.reported(record)
    (event,) = telemetry.settle() or telemetry.store.events()
    assert event.suggestion == (None if unresolved else {"net": [{"connect": "gone.internal:443"}]})


def test_files_that_are_only_watched_are_told_once_by_both_and_again_by_native_code(recorder: Recorder) -> None:
    """Nothing is expected of the kernel on files where Landlock decides; with full telemetry it tells all the same."""
    telemetry = SandboxTelemetry(CONTEXT, recorder)
    seen = {"verdict": Verdict.WOULD_DENY, "target": "/etc/hosts"}
    (alone,) = telemetry.reported(broker(**seen))[0]
    assert alone.kernel_decision is Verdict.UNAVAILABLE
    (both,) = telemetry.kernel(kernel(**seen, evaluation=Evaluation.PROBED, monotonic_ns=alone.last_seen + 50 * MS))
    assert (both.event_id, both.kernel_decision) == (alone.event_id, Verdict.WOULD_DENY)
    assert recorder.metrics.denials.total() == 1
    telemetry.kernel(kernel(**seen, evaluation=Evaluation.PROBED, monotonic_ns=alone.last_seen + 60 * MS))
    assert recorder.metrics.denials.total() == 2, "the second is native code's"
    telemetry.reported(broker(**{**seen, "target": "/srv/x"}))
    (later,) = telemetry.kernel(kernel(**{**seen, "target": "/srv/x"}, monotonic_ns=alone.last_seen + 5000 * MS))
    assert recorder.metrics.denials.total() == 4, "too late to be the same"
    assert later.broker_decision is not Verdict.WOULD_DENY


@pytest.mark.parametrize("seed", range(8))
def test_what_both_layers_let_through_is_counted_once_in_whatever_order_and_pieces_they_tell(
    recorder: Recorder, seed: int
) -> None:
    """Reports whose time is over before the kernel's record comes, and records of more than what waits, too."""
    telemetry, draw = _watched(recorder), random.Random(seed)
    left = {"guest": 2000, "kernel": 2000}
    while any(left.values()):
        who = draw.choice([one for one, count in left.items() if count])
        count = min(left[who], draw.choice((1, 1, 1, 2, 3, 7)))
        left[who] -= count
        if who == "guest":
            telemetry.reported(broker(count=count, **LET))
        else:
            telemetry.kernel(kernel(count=count, **LET))
        if not draw.randrange(4):
            telemetry.settle()  # the time of all that waits is over
    telemetry.settle()
    assert telemetry.store.total == 2000 == recorder.metrics.denials.total()
    assert {event.origin for event in telemetry.store.events()} == {"job.py:3 in main"}


def test_repeats_that_the_guest_did_not_report_are_those_that_the_kernel_recorded(recorder: Recorder) -> None:
    telemetry = _watched(recorder)
    telemetry.reported(broker(**LET))
    for _ in range(1500):
        telemetry.kernel(kernel(**LET))
    telemetry.kernel(kernel(**LET, broker_consulted=False, enforcer="seccomp-notify"))  # native code's: no report's
    assert telemetry.unreported(Capability.FS_WRITE, Verdict.WOULD_DENY, 2, 1) is not None  # of another capability
    assert telemetry.unreported(Capability.FS_READ, Verdict.DENY, 2, 1) is not None  # which made no system call
    assert telemetry.unreported(Capability.FS_READ, Verdict.WOULD_DENY, 1499, 1) is None
    alone = telemetry.unreported(Capability.FS_READ, Verdict.WOULD_DENY, 3, 1)
    assert alone is not None
    assert alone.count == 3
    assert telemetry.store.total == 1501 + 2 + 2 + 3 == recorder.metrics.denials.total()
