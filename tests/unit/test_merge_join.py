"""Records of one operation meet exactly; whatever the order, every refusal is told once and none is hidden."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import msgspec
import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.kernel.reconcile import LOOK_UP, CounterKey, record
from pyisolate.policy.suggest import suggestion
from pyisolate.records import Evaluation
from pyisolate.sandbox.denials import Denials
from pyisolate.telemetry.correlate import Joiner, LateReport
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.guest_records import InvalidRecord
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.pipeline import SandboxTelemetry
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.worker_threads import Timer
from tests.telemetry_events import CONTEXT, broker, kernel

MS = 1_000_000
ERRNO = {"verdict": Verdict.ALLOW, "errno": 13}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(metrics=Metrics(), sinks=(), alerts=None)
    yield made
    made.shutdown()


def _telemetry(recorder: Recorder, **options: object) -> SandboxTelemetry:
    return SandboxTelemetry(CONTEXT, recorder, **options)


def test_kernel_first_then_errno_is_one_event_with_both_sides(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    (first,) = telemetry.kernel(kernel(enforcer="notify"))
    (full,) = telemetry.reported(broker(**ERRNO))[0]
    assert first.broker_decision is Verdict.UNAVAILABLE
    assert (full.event_id, full.broker_decision, full.origin) == (first.event_id, Verdict.ALLOW, "job.py:3 in main")
    assert full.reported_by.value == "kernel"
    assert telemetry.store.events() == [full]
    assert recorder.metrics.denials.total() == 1
    assert recorder.metrics.drift.total() == 1


@pytest.mark.parametrize("first", ["kernel", "guest"])
def test_a_random_number_is_called_by_its_function_whichever_report_is_first(recorder: Recorder, first: str) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.RANDOM_READ], hold_ms=10_000)
    of = {"capability": Capability.RANDOM_READ, "verdict": Verdict.WOULD_DENY}
    seen = kernel(target="getrandom()", enforcer="seccomp-notify", syscall="getrandom", **of)
    report = broker(target="os.getrandom", **of)
    steps = {"kernel": lambda: telemetry.kernel(seen), "guest": lambda: telemetry.reported(report)}
    for step in (first, *(name for name in steps if name != first)):
        steps[step]()
    (event,) = telemetry.store.events()
    assert (event.target, event.requested_capability) == ("os.getrandom", "random.read os.getrandom")


@pytest.mark.parametrize("first", ["kernel", "guest"])
def test_a_program_for_which_no_process_could_be_made_is_one_refusal(recorder: Recorder, first: str) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.PROCESS_EXEC], hold_ms=10_000)
    fork = kernel(capability=Capability.PROCESS_FORK, target="fork", enforcer="seccomp-notify", syscall="vfork")
    report = broker(capability=Capability.PROCESS_EXEC, target="/usr/bin/true", **ERRNO)
    steps = {"kernel": lambda: telemetry.kernel(fork), "guest": lambda: telemetry.reported(report)[0]}
    for step in (first, *(name for name in steps if name != first)):
        steps[step]()
    telemetry.settle()
    (event,) = telemetry.store.events()
    assert (event.capability, event.broker_decision) == (Capability.PROCESS_FORK, Verdict.UNAVAILABLE)


def test_the_control_a_program_whose_file_was_refused_is_an_event_of_its_own(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    telemetry.kernel(kernel())
    telemetry.reported(broker(capability=Capability.PROCESS_EXEC, target="/usr/bin/true", **ERRNO))
    assert [event.capability for event in telemetry.store.events()][1:] == [Capability.PROCESS_EXEC]


def test_a_report_of_many_completes_as_many(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    for _ in range(5):
        telemetry.kernel(kernel())
    telemetry.reported(broker(count=3, **ERRNO))
    assert recorder.metrics.denials.total() == 5 == telemetry.store.total
    assert {e.broker_decision: e.count for e in telemetry.store.events()} == {
        Verdict.ALLOW: 3,
        Verdict.UNAVAILABLE: 2,
    }
    assert len({e.event_id for e in telemetry.store.events()}) == 2
    assert telemetry.reported(broker(count=9, **ERRNO))[0]
    (event,) = telemetry.reported(broker(count=4, **ERRNO))[0]  # nothing of the kernel's is left to complete
    assert event.kernel_evaluation is Evaluation.ERRNO
    assert telemetry.store.total == 9


def test_repeated_denials_coalesce_once_they_are_complete(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    for _ in range(100):
        telemetry.kernel(kernel())
        telemetry.reported(broker(**ERRNO))
    (event,) = telemetry.store.events()
    assert (event.count, event.broker_decision) == (100, Verdict.ALLOW)
    assert recorder.metrics.denials.total() == 100


def test_errno_first_then_kernel_is_one_event_with_both_sides(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=10_000)
    assert telemetry.reported(broker(**ERRNO))[0] == []
    (event,) = telemetry.kernel(kernel())
    assert (event.broker_decision, event.kernel_decision, event.origin) == (
        Verdict.ALLOW,
        Verdict.DENY,
        "job.py:3 in main",
    )
    assert telemetry.settle() == []
    assert recorder.metrics.denials.total() == 1


def test_an_errno_whose_kernel_record_never_comes_is_told_alone(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=5)
    telemetry.reported(broker(**ERRNO))
    event = next(telemetry.store.follow(timeout=2), None)
    assert event is not None
    assert event.kernel_evaluation is Evaluation.ERRNO


@pytest.mark.parametrize("said", [ERRNO, {"verdict": Verdict.WOULD_DENY}], ids=["refused", "let through"])
def test_what_waits_is_told_when_its_time_is_over_and_belongs_to_the_request(
    recorder: Recorder, said: dict[str, object]
) -> None:
    files = [Capability.FS_READ]
    telemetry = _telemetry(recorder, expects=files, watches=files, hold_ms=50)
    denials = Denials(telemetry, SimpleNamespace(quiet=lambda pid: True), lambda: 7)
    denials.begin_request()
    for number in range(3):  # the timer is set again after each of them
        target = f"/nowhere/{number}"
        assert denials.guest(broker(target=target, **said)) is None
        assert telemetry.waiting, "the control: a kernel record could still join it"
        events = telemetry.store.follow(timeout=2)
        assert target in (event.target for event in events)
        assert not telemetry.waiting
        assert denials.of_request()[-1].target == target


@pytest.mark.parametrize("expects", [[], [Capability.FS_READ]], ids=["alone", "awaited"])
def test_what_the_kernel_has_recorded_is_taken_in_before_the_guest_tells_of_its_error(
    recorder: Recorder, expects: list[Capability]
) -> None:
    telemetry = _telemetry(recorder, expects=expects, hold_ms=0)  # waits for nothing: the order alone joins the two
    ring = [kernel()]

    def drain() -> None:
        denials.kernel(ring.pop())

    denials = Denials(telemetry, SimpleNamespace(quiet=lambda pid: not ring, drain=drain), lambda: 7)
    denials.begin_request()
    denials.guest(broker(**ERRNO))
    (event,) = telemetry.store.events()
    assert (event.reported_by, event.broker_decision, event.origin) == ("kernel", Verdict.ALLOW, "job.py:3 in main")
    assert not ring, "the control: the kernel's record was there and not taken in"


def test_look_ups_that_nobody_looked_into_are_lost_and_no_event(recorder: Recorder) -> None:
    denials = Denials(_telemetry(recorder), SimpleNamespace(), lambda: 7)
    denials.kernel(record("seccomp", "box", 7, LOOK_UP, 3, "a flood"))
    assert (denials.lost, denials.total, denials.stored()) == (3, 0, [])
    denials.kernel(record("seccomp", "box", 7, CounterKey(Capability.FS_READ, Verdict.DENY), 2, "a flood"))
    assert (denials.lost, denials.total) == (3, 2), "the control: refusals without a name are events"


def test_a_report_that_waits_is_not_blamed_on_what_was_recorded_meanwhile(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=0)
    telemetry.reported(broker(target="/first", sequence=1, **ERRNO))
    events, own = telemetry.reported(broker(target="/second", sequence=2, **ERRNO))
    assert [event.target for event in events] == ["/first"], "its time was over"
    assert own is None
    _, own = telemetry.reported(broker(target="/third", sequence=3))
    assert own is not None
    assert own.target == "/third", "the control: a refusal of the broker's waits for nothing"


def test_the_timer_looks_once_for_all_that_waits(recorder: Recorder) -> None:
    class Counted(Timer):
        calls = 0

        def call_in(self, seconds: float, action: Callable[[], None]) -> None:
            self.calls += 1
            super().call_in(seconds, action)

    recorder.timer = timer = Counted()
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], watches=[Capability.FS_READ])
    for number in range(100):
        telemetry.reported(broker(target=f"/nowhere/{number}", verdict=Verdict.WOULD_DENY))
    assert 1 <= timer.calls < 10, "once in 100 ms, however slow the machine is"


def test_a_forged_errno_report_cannot_swallow_what_the_kernel_saw(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=10_000)
    for _ in range(10):
        telemetry.reported(broker(**ERRNO))  # forged in advance
    for _ in range(20):
        (event,) = telemetry.kernel(kernel())
        assert event.kernel_decision is Verdict.DENY
    assert recorder.metrics.denials.total() == 20


def test_sequences_join_across_equal_targets() -> None:
    joiner = Joiner(lambda c: True, hold_ms=10_000)
    first, second = broker(sequence=1, **ERRNO), broker(sequence=2, **ERRNO)
    joiner.broker(first)
    joiner.broker(second)
    assert joiner.kernel(kernel(sequence=2)) is second
    assert joiner.kernel(kernel(sequence=3)) is None
    assert joiner.kernel(kernel(sequence=1)) is first
    assert joiner.waiting == 0


def test_time_alone_joins_nothing() -> None:
    joiner = Joiner(lambda c: True, hold_ms=10_000)
    joiner.broker(broker(**ERRNO), now_ns=5)
    assert joiner.kernel(kernel(target="/etc/passwd")) is None
    assert joiner.kernel(kernel(capability=Capability.FS_WRITE)) is None


def test_the_thread_counts_where_it_can_be_translated() -> None:
    joiner = Joiner(lambda c: True, hold_ms=10_000, translate_tid=lambda tid: tid + 1000)
    joiner.broker(broker(tid=7, sequence=0, **ERRNO))
    assert joiner.kernel(kernel(tid=1008)) is None
    assert joiner.kernel(kernel(tid=1007)) is not None


def test_a_broker_denial_waits_for_nothing_and_joins_nothing() -> None:
    joiner = Joiner(lambda c: True, hold_ms=10_000)
    record = broker()
    assert joiner.broker(record) == [record]
    assert joiner.kernel(kernel()) is None


def test_native_code_leaves_no_credit_behind(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    telemetry.kernel(kernel(broker_consulted=False))
    (event,) = telemetry.reported(broker(**ERRNO))[0]  # another operation: not a report of the one before
    assert event.kernel_evaluation is Evaluation.ERRNO
    assert recorder.metrics.denials.total() == 2


def test_memory_is_bounded_and_the_oldest_goes_out_alone() -> None:
    joiner = Joiner(lambda c: True, hold_ms=10**9, capacity=100)
    out: list[object] = []
    for number in range(1, 1001):
        out += joiner.broker(broker(sequence=number, target=f"/{number}", **ERRNO), now_ns=number)
    assert joiner.waiting == 100
    assert [record.sequence for record in out] == list(range(1, 901))
    assert [record.sequence for record in joiner.settle(force=True)] == list(range(901, 1001))


def test_told_events_are_bounded_too(recorder: Recorder) -> None:
    joiner = Joiner(capacity=10)
    telemetry = _telemetry(recorder)
    for number in range(100):
        record = kernel(target=f"/{number}")
        joiner.tell(record, telemetry.kernel(record)[0])
    assert joiner.broker(broker(target="/3", **ERRNO)) == [broker(target="/3", **ERRNO)]
    (told,) = joiner.broker(broker(target="/95", **ERRNO))
    assert isinstance(told, LateReport)


@pytest.mark.parametrize("enforcer", ["seccomp-notify", "landlock", "root view"])
def test_what_native_code_did_takes_no_report_of_the_same_operation(recorder: Recorder, enforcer: str) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=10_000)
    telemetry.reported(broker(**ERRNO))
    (raw,) = telemetry.kernel(kernel(enforcer=enforcer, broker_consulted=False))
    (asked,) = telemetry.kernel(kernel(enforcer=enforcer, broker_consulted=True, slot_verdict=Verdict.ALLOW))
    assert (raw.broker_decision, raw.origin) == (Verdict.NOT_CONSULTED, None)
    assert (asked.broker_decision, asked.origin) == (Verdict.ALLOW, "job.py:3 in main")
    assert telemetry.store.total == 2 == recorder.metrics.denials.total()


def test_a_report_that_comes_while_the_event_is_recorded_completes_it(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=10_000)
    record = recorder.record

    def slow(event: DenialEvent) -> DenialEvent:
        telemetry.reported(broker(count=3, **ERRNO))
        return record(event)

    recorder.record = slow  # type: ignore[method-assign]
    (event,) = telemetry.kernel(kernel(count=2))
    recorder.record = record  # type: ignore[method-assign]
    assert (event.broker_decision, event.origin, event.count) == (Verdict.ALLOW, "job.py:3 in main", 2)
    telemetry.kernel(kernel())
    telemetry.settle()
    assert telemetry.store.total == 3 == recorder.metrics.denials.total()


def test_a_report_completes_the_event_whose_verdict_came_from_a_slot(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    said = {"broker_consulted": True, "slot_verdict": Verdict.ALLOW, "slot_capability": Capability.FS_READ}
    (first,) = telemetry.kernel(kernel(enforcer="seccomp-notify", **said))
    assert (first.broker_decision, first.broker_reason) == (Verdict.ALLOW, "broker slot: fs.read")
    (full,) = telemetry.reported(broker(**{**ERRNO, "reason": "granted"}))[0]
    assert (full.event_id, full.broker_reason, full.origin) == (first.event_id, "granted", "job.py:3 in main")
    assert telemetry.store.events() == [full]
    assert recorder.metrics.denials.total() == 1 == recorder.metrics.drift.total()


def test_a_probe_gives_broker_denials_a_kernel_verdict(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, probe=lambda record: kernel(evaluation=Evaluation.PROBED, target=record.target))
    (event,) = telemetry.reported(broker())[0]
    assert (event.kernel_decision, event.kernel_evaluation) == (Verdict.DENY, Evaluation.PROBED)
    assert event.origin == "job.py:3 in main"


def test_a_probe_that_fails_does_not_hide_the_denial(recorder: Recorder) -> None:
    def probe(record: object) -> None:
        raise OSError("gone")

    (event,) = _telemetry(recorder, probe=probe).reported(broker())[0]
    assert event.kernel_decision is Verdict.NOT_REACHED


def test_a_hostile_record_is_refused_and_not_recorded(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder)
    with pytest.raises(InvalidRecord):
        telemetry.reported({"sequence": "x"})
    assert telemetry.store.total == 0


def test_close_ends_followers_and_keeps_events(recorder: Recorder) -> None:
    telemetry = _telemetry(recorder, expects=[Capability.FS_READ], hold_ms=10_000)
    telemetry.reported(broker(**ERRNO))
    telemetry.close()
    telemetry.close()
    assert len(list(telemetry.store.follow())) == 1
    assert len(recorder.events_of("s-1")) == 1


# -- monitor mode and shadow: both layers let it pass, and both tell ------------------------------------------------

LET = {"verdict": Verdict.WOULD_DENY, "code": None}


def _watched(recorder: Recorder) -> SandboxTelemetry:
    return _telemetry(recorder, expects=[Capability.FS_READ])


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
    telemetry = _telemetry(recorder, suggest=suggestion)
    telemetry.watch(("candidate", "v2"), unresolved=unresolved)
    record = broker(shadow=True, capability=Capability.NET_CONNECT, target="gone.internal:443", **LET)
    telemetry.reported(record)
    (event,) = telemetry.settle() or telemetry.store.events()
    assert event.suggestion == (None if unresolved else {"net": [{"connect": "gone.internal:443"}]})


def test_files_that_are_only_watched_are_told_once_by_both_and_again_by_native_code(recorder: Recorder) -> None:
    """Nothing is expected of the kernel on files where Landlock decides; with full telemetry it tells all the same."""
    telemetry = _telemetry(recorder)
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
