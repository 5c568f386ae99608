"""An event goes everywhere, in order, and nothing downstream can mask, delay or multiply a refusal."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyisolate.api import set_event_sinks
from pyisolate.supervisor.options import make_recorder
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import VARIOUS, Recorder
from pyisolate.telemetry.sinks.configure import get_event_sinks
from pyisolate.telemetry.sinks.protocol import EventSink
from tests.telemetry_events import CONTEXT, event


class Sink:
    def __init__(self, immediate: bool = False, action: Callable[[DenialEvent], None] | None = None) -> None:
        self.immediate, self.action = immediate, action
        self.events: list[DenialEvent] = []
        self.closed = 0

    def emit(self, one: DenialEvent) -> None:
        if self.action is not None:
            self.action(one)
        self.events.append(one)

    def close(self) -> None:
        self.closed += 1


class Make:
    def __init__(self) -> None:
        self.made: list[Recorder] = []

    def __call__(self, **options: object) -> Recorder:
        options = {"metrics": Metrics(), "sinks": (), "alerts": None, **options}
        self.made.append(Recorder(**options))
        return self.made[-1]


@pytest.fixture
def make() -> Iterator[Make]:
    maker = Make()
    yield maker
    for recorder in maker.made:
        recorder.shutdown(1)


def test_the_order_is_store_counters_audit_sinks_alerts(make: Make) -> None:
    order: list[str] = []

    class Alerts:
        def observe(self, one: DenialEvent) -> None:
            order.append("alerts")

        def lost(self, stage: str, count: int) -> None: ...

    def audit(one: DenialEvent) -> None:
        assert recorder.events_of("s-1") == [one]
        assert recorder.metrics.denials.total() == 1
        order.append("audit")

    recorder = make(
        audit=Sink(action=audit),
        sinks=[Sink(immediate=True, action=lambda e: order.append("sink"))],
        alerts=Alerts(),
    )
    recorder.open(CONTEXT)
    recorder.record(event())
    assert order == ["audit", "sink", "alerts"]


def test_a_failing_sink_is_counted_logged_once_and_stops_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    def fail(one: DenialEvent) -> None:
        raise OSError("disk on fire")

    good = Sink(immediate=True)
    recorder = make(audit=Sink(action=fail), sinks=[Sink(immediate=True, action=fail), good])
    with caplog.at_level(logging.ERROR, "pyisolate"):
        for _ in range(5):
            recorder.record(event())
    assert recorder.metrics.audit_errors.value() == 10
    assert len(good.events) == 5
    assert len([r for r in caplog.records if "disk on fire" in r.getMessage()]) == 2


def test_a_sink_that_blocks_delays_no_refusal(make: Make) -> None:
    gate = threading.Event()
    slow = Sink(action=lambda e: gate.wait(10) and None)
    recorder = make(sinks=[slow])
    started = time.monotonic()
    for _ in range(100):
        recorder.record(event())
    assert time.monotonic() - started < 1
    gate.set()
    recorder.flush()
    assert len(slow.events) == 100


def test_a_full_queue_counts_what_it_drops(make: Make) -> None:
    gate = threading.Event()
    recorder = make(sinks=[Sink(action=lambda e: gate.wait(10) and None)], rate=1e9, burst=10**9)
    for _ in range(10_500):
        recorder.record(event())
    assert 490 <= recorder.metrics.lost.value("sink") <= 500
    gate.set()


def test_a_flood_is_suppressed_counted_and_summed_up_exactly(make: Make) -> None:
    sink = Sink(immediate=True)
    recorder = make(audit=sink, rate=0, burst=10)
    recorder.timer.close()  # no summary before the test asks, however long the flood takes
    recorder.open(CONTEXT)
    for number in range(5000):
        recorder.record(event(target=f"/{number % 500}"))
    assert len(sink.events) == 10
    assert recorder.metrics.suppressed.value("p") == 4990
    recorder.flush()
    assert sum(e.count for e in sink.events) == 5000
    assert len(sink.events) <= 10 + 64 + 1
    assert sum(e.count for e in sink.events if e.target == VARIOUS) > 4000
    assert recorder.metrics.denials.total() == 5000
    assert recorder.count_of("s-1") == 5000


def test_one_flooding_sandbox_does_not_silence_another(make: Make) -> None:
    import msgspec

    sink = Sink(immediate=True)
    recorder = make(audit=sink, rate=0, burst=5)
    for name in ("s-1", "s-2"):
        recorder.open(name)
    for _ in range(1000):
        recorder.record(event())
    recorder.record(event(msgspec.structs.replace(CONTEXT, sandbox_id="s-2")))
    assert [e.sandbox_id for e in sink.events] == ["s-1"] * 5 + ["s-2"]


def test_a_sandbox_that_closes_gets_its_summary_written(make: Make) -> None:
    sink = Sink(immediate=True)
    recorder = make(audit=sink, rate=0, burst=1)
    recorder.open(CONTEXT)
    for _ in range(100):
        recorder.record(event())
    recorder.close("s-1")
    assert sum(e.count for e in sink.events) == 100


def test_summaries_come_by_themselves(make: Make) -> None:
    sink = Sink(immediate=True)
    recorder = make(audit=sink, rate=0, burst=1)
    for _ in range(10):
        recorder.record(event())
    deadline = time.monotonic() + 5
    while sum(e.count for e in sink.events) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [e.count for e in sink.events] == [1, 9]


def test_a_closed_sandboxs_events_stay_readable(make: Make) -> None:
    recorder = make()
    recorder.open(CONTEXT)
    one = recorder.record(event())
    recorder.close("s-1")
    assert recorder.events_of("s-1") == [one]
    assert recorder.lost_of("s-1") == 0
    assert list(recorder.follow("s-1")) == [one]
    assert recorder.events_of("never") == []


def test_an_event_after_the_end_is_still_counted_and_audited(make: Make) -> None:
    sink = Sink(immediate=True)
    recorder = make(audit=sink)
    recorder.record(event())
    assert len(sink.events) == 1
    assert recorder.metrics.denials.total() == 1


def test_evicted_events_are_counted_as_lost(make: Make) -> None:
    recorder = make(capacity=3)
    recorder.open(CONTEXT)
    for number in range(5):
        recorder.record(event(target=f"/{number}"))
    assert recorder.metrics.lost.value("store") == 2 == recorder.lost_of("s-1")


def test_alerts_that_fail_stop_nothing(make: Make) -> None:
    class Broken:
        def observe(self, one: DenialEvent) -> None:
            raise RuntimeError("rule")

        def lost(self, stage: str, count: int) -> None:
            raise RuntimeError("rule")

    recorder = make(alerts=Broken())
    recorder.record(event())
    recorder.lost("kernel", 3)
    assert recorder.metrics.lost.value("kernel") == 3


def test_shutdown_closes_its_own_sinks_once(make: Make) -> None:
    audit, sink = Sink(), Sink()
    recorder = make(audit=audit, sinks=[sink])
    recorder.shutdown()
    recorder.shutdown()
    assert (audit.closed, sink.closed) == (1, 1)


@pytest.fixture
def process_sinks() -> Iterator[None]:
    before = get_event_sinks()
    yield
    set_event_sinks(before)


@pytest.mark.usefixtures("process_sinks")
def test_the_processs_sinks_serve_recorders_without_their_own(make: Make) -> None:
    sink = Sink(immediate=True)
    set_event_sinks([sink])
    assert get_event_sinks() == (sink,)
    assert isinstance(sink, EventSink)
    make(sinks=None).record(event())
    make(sinks=()).record(event())
    assert len(sink.events) == 1
    with pytest.raises(TypeError, match="no emit"):
        set_event_sinks([object()])


def test_recording_survives_a_fork_with_every_lock_held(make: Make) -> None:
    recorder = make()
    recorder.open(CONTEXT)
    recorder.record(event())
    with recorder._lock, recorder.metrics.denials._lock, recorder.metrics._lock:
        child = os.fork()
        if child == 0:
            try:
                recorder.record(event())
                os._exit(0 if recorder.metrics.denials.total() == 1 else 1)
            except BaseException:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_many_threads_count_exactly(make: Make) -> None:
    recorder = make(capacity=50)
    recorder.open(CONTEXT)

    def work() -> None:
        for number in range(2000):
            recorder.record(event(target=f"/{number}"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.metrics.denials.total() == 8000 == recorder.count_of("s-1")


def test_what_is_no_sink_is_refused_at_the_start() -> None:
    for wrong in ("sinks.yaml", [object()]):
        with pytest.raises(ValueError, match="no event sink"):
            make_recorder(None, wrong, None)
    make_recorder(None, (), None)
