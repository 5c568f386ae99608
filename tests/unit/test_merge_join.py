"""Records of one operation meet exactly; whatever the order, every refusal is told once and none is hidden."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.kernel.reconcile import LOOK_UP, CounterKey, record
from pyisolate.records import Evaluation
from pyisolate.sandbox.denials import Denials
from pyisolate.telemetry.correlate import Joiner, LateReport
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.guest_records import InvalidRecord
from pyisolate.telemetry.pipeline import SandboxTelemetry
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.worker_threads import Timer
from tests.telemetry_events import CONTEXT, broker, kernel

MS = 1_000_000
ERRNO = {"verdict": Verdict.ALLOW, "errno": 13}


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
