"""Alert rules match exactly, count exactly in their window, and call back once a cool-down."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.records import Evaluation
from pyisolate.telemetry.alerts import GROUPS_LIMIT, Alert, AlertEngine, AlertRule, default_rules
from pyisolate.telemetry.merge import merge
from pyisolate.telemetry.metrics import LOST_STAGES, Metrics
from pyisolate.telemetry.recorder import Recorder
from tests.telemetry_events import CONTEXT, broker, event, kernel


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Fired(list[Alert]):
    pass


@pytest.fixture
def fired() -> Fired:
    return Fired()


def engine_of(clock: Clock, *rules: AlertRule) -> AlertEngine:
    return AlertEngine(rules, clock=clock)


def close(engine: AlertEngine) -> None:
    assert engine.flush()
    engine._calls.close(1)


@pytest.fixture
def run(clock: Clock) -> Iterator[object]:
    engines: list[AlertEngine] = []

    def make(*rules: AlertRule) -> AlertEngine:
        engines.append(engine_of(clock, *rules))
        return engines[-1]

    yield make
    for engine in engines:
        close(engine)


def test_it_fires_above_the_threshold_and_rests_when_the_window_has_passed(run, clock: Clock, fired: Fired) -> None:
    engine = run(AlertRule("a", {"capability": "fs.read"}, threshold=2, window=10, callback=fired.append))
    for _ in range(2):
        engine.observe(event())
    assert engine.active() == {"a": False}
    engine.observe(event())
    assert engine.active() == {"a": True}
    assert engine.flush()
    assert [(a.alert, a.count, a.threshold) for a in fired] == [("a", 3, 2)]
    clock.now += 10.1
    assert engine.active() == {"a": False}


@pytest.mark.parametrize(
    "match",
    [
        {"capability": "fs.write"},
        {"capability": ["fs.write", "fs.create"]},
        {"target": "/etc"},
        {"target": "/etc/shadow "},
        {"code": "EXPLICIT_DENY"},
        {"broker_decision": "allow"},
        {"kernel_decision": "deny"},
        {"would_deny": True},
        {"disagree": True},
        {"policy": "P"},
        {"capability": "fs.read", "target": "/other"},
    ],
)
def test_what_does_not_match_exactly_does_not_count(run, match: dict[str, object]) -> None:
    engine = run(AlertRule("a", match))
    engine.observe(event())
    assert engine.active() == {"a": False}


@pytest.mark.parametrize(
    "match",
    [
        {},
        {"capability": Capability.FS_READ},
        {"capability": {"fs.read", "fs.write"}},
        {"code": "NOT_GRANTED", "broker_decision": Verdict.DENY, "kernel_decision": "not_reached"},
        {"would_deny": False, "shadow": False},
        {"actor": None},
    ],
)
def test_what_matches_counts(run, match: dict[str, object]) -> None:
    engine = run(AlertRule("a", match))
    engine.observe(event())
    assert engine.active() == {"a": True}


@pytest.mark.parametrize(
    "options",
    [
        {"match": {"capabilty": "fs.read"}},
        {"match": {"capability": "fs"}},
        {"match": {"capability": "fs.*"}},
        {"match": {"kernel_decision": ["deny", "denied"]}},
        {"match": {"suggestion": None}},
        {"match": {"stage": "kernel"}},
        {"match": {"capability": "fs.read"}, "signal": "lost"},
        {"by": ["pth"]},
        {"threshold": -1},
        {"window": 0},
        {"cooldown": -1},
        {"signal": "maybe"},
    ],
)
def test_rules_that_could_never_fire_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="alert rule 'a'"):
        AlertRule("a", **options)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="must be AlertRule"):
        AlertEngine([{"name": "denials"}])  # type: ignore[list-item]


def test_groups_count_apart(run, fired: Fired) -> None:
    rule = AlertRule("a", threshold=1, by=["capability", "target"], callback=fired.append)
    engine = run(rule)
    engine.observe(event(target="/1"))
    engine.observe(event(target="/2"))
    assert engine.active() == {"a": False}
    engine.observe(event(target="/2"))
    assert engine.flush()
    assert [a.group for a in fired] == [{"capability": "fs.read", "target": "/2"}]


def test_the_cool_down_holds_per_group_and_the_gauge_does_not_care(run, clock: Clock, fired: Fired) -> None:
    engine = run(AlertRule("a", window=1000, cooldown=50, callback=fired.append))
    for _ in range(5):
        engine.observe(event())
        clock.now += 20
    assert engine.flush()
    assert len(fired) == 2
    assert engine.active() == {"a": True}


def test_coalesced_counts_count(run) -> None:
    engine = run(AlertRule("a", threshold=10))
    engine.observe(event(count=11))
    assert engine.active() == {"a": True}


@given(
    st.integers(0, 6),
    st.integers(1, 10),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=60),
)
def test_the_window_is_exact_with_memory_bounded_by_the_threshold(
    threshold: int, window: int, steps: list[tuple[int, int]]
) -> None:
    clock = Clock()
    engine = engine_of(clock, AlertRule("a", threshold=threshold, window=window))
    seen: list[tuple[float, int]] = []
    for pause, count in steps:
        clock.now += pause
        seen.append((clock.now, count))
        engine.observe(event(count=count))
        in_window = sum(n for moment, n in seen if moment > clock.now - window)
        assert engine.active() == {"a": in_window > threshold}
        (entries,) = (w.entries for w in engine._state[0][1].values())
        assert len(entries) <= threshold + 1
    for _ in range(window + 1):
        clock.now += 1
        in_window = sum(n for moment, n in seen if moment > clock.now - window)
        assert engine.active() == {"a": in_window > threshold}


def test_groups_are_bounded(run) -> None:
    engine = run(AlertRule("a", by=["target"], threshold=5))
    for number in range(GROUPS_LIMIT + 200):
        engine.observe(event(target=f"/{number}"))
    assert len(engine._state[0][1]) == GROUPS_LIMIT


def test_a_slow_or_failing_callback_delays_nothing(run, fired: Fired) -> None:
    gate = threading.Event()

    def slow(alert: Alert) -> None:
        gate.wait(10)
        raise RuntimeError("pager is down")

    engine = run(AlertRule("slow", cooldown=0, callback=slow), AlertRule("ok", cooldown=0, callback=fired.append))
    started = time.monotonic()
    for _ in range(20):
        engine.observe(event())
    assert time.monotonic() - started < 1
    gate.set()
    assert engine.flush()
    assert len(fired) == 20


def test_lost_events_have_their_own_rules(run, fired: Fired) -> None:
    engine = run(
        AlertRule("any", signal="lost", callback=fired.append),
        AlertRule("kernel", {"stage": "kernel"}, signal="lost"),
    )
    engine.observe(event())
    assert engine.active() == {"any": False, "kernel": False}
    engine.lost("store", 3)
    assert engine.active() == {"any": True, "kernel": False}
    engine.lost("kernel", 1)
    assert engine.active() == {"any": True, "kernel": True}
    assert engine.flush()
    assert fired[0].event is None


@pytest.mark.parametrize("stage", [*LOST_STAGES, "unattributed"])
def test_lost_events_of_each_stage_but_look_ups_are_told_by_default(run, stage: str) -> None:
    engine = run(*default_rules())
    engine.lost(stage, 1)
    assert engine.active()["DenialEventsLost"] is (stage != "lookup")


def _drift() -> object:
    return merge(CONTEXT, None, kernel(broker_consulted=True, slot_verdict=Verdict.ALLOW))


DEFAULTS = {
    "BrokerBypassed": [merge(CONTEXT, None, kernel(broker_consulted=False))],
    "LayersDisagree": [_drift()],
    "CapabilityDeniedOften": [event(count=11)],
}
QUIET = [
    event(count=10),
    event(verdict=Verdict.WOULD_DENY, count=50),
    merge(CONTEXT, broker(verdict=Verdict.ALLOW, errno=13), None),
    merge(CONTEXT, None, kernel(evaluation=Evaluation.ENFORCED)),
]


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_default_rule_fires_for_its_case_alone(run, name: str) -> None:
    engine = run(*default_rules())
    for one in DEFAULTS[name]:
        engine.observe(one)
    assert [rule for rule, firing in engine.active().items() if firing] == [name]


@pytest.mark.parametrize("one", QUIET)
def test_ordinary_refusals_fire_nothing(run, one: object) -> None:
    engine = run(*default_rules())
    engine.observe(one)
    assert not any(engine.active().values())


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        AlertEngine([AlertRule("a"), AlertRule("a")])


def test_the_recorder_drives_the_engine_and_the_gauge_shows_it() -> None:
    metrics, engine = Metrics(), AlertEngine([AlertRule("a"), AlertRule("lost", signal="lost")])
    recorder = Recorder(metrics=metrics, sinks=(), alerts=engine, capacity=1)
    recorder.open(CONTEXT)
    recorder.record(event(target="/1"))
    assert metrics._alert_states() == {"a": True, "lost": False}
    recorder.record(event(target="/2"))  # evicts the first
    assert metrics._alert_states() == {"a": True, "lost": True}
    recorder.shutdown()
