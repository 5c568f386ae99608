"""The watchdog fires once, on time, for the right reason, and sleeps otherwise. Readings are made up here."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Hashable, Iterator

import pytest

from pyisolate.limits.usage import Usage
from pyisolate.limits.watchdog import ExceededLimit, Watchdog
from pyisolate.policy.compiled import Limits


class StandingClock:
    """A clock that stands still until a test moves it; the watchdog's thread then does all that falls due, at once."""

    def __init__(self) -> None:
        self._now_ns = self._end_ns = 0
        self._condition: threading.Condition | None = None
        self._idle = threading.Event()

    def now_ns(self) -> int:
        return self._now_ns

    def take(self, seconds: float) -> None:
        """Pass time from within a reading: what it costs."""
        self._now_ns += int(seconds * 1e9)

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        self._condition = condition
        if timeout_s is not None and self._now_ns + timeout_s * 1e9 <= self._end_ns:
            self._now_ns += int(timeout_s * 1e9) + 1
            return
        self._now_ns = max(self._now_ns, self._end_ns)
        self._idle.set()
        condition.wait()  # for a new entry or for time: the watchdog looks at both anew

    def advance(self, seconds: float) -> None:
        """Let that much time pass, and wait until the watchdog has done all that fell due."""
        assert self._idle.wait(5)
        assert self._condition is not None
        with self._condition:
            self._idle.clear()
            self._end_ns += int(seconds * 1e9)
            self._condition.notify()
        assert self._idle.wait(5)


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def timed(clock: StandingClock) -> Iterator[Watchdog]:
    made = Watchdog(clock)
    yield made
    made.stop()


Fired = queue.Queue[tuple[Hashable, ExceededLimit]]

NONE = Limits(cpu_s=None, memory_bytes=None, processes=None)


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog()
    yield made
    made.stop()


@pytest.fixture
def fired() -> Fired:
    return queue.Queue()


def on(fired: Fired):  # type: ignore[no-untyped-def]
    return lambda key, exceeded: fired.put((key, exceeded))


def in_ms(milliseconds: int) -> int:
    return time.monotonic_ns() + milliseconds * 1_000_000


def test_a_deadline_fires_once_with_its_figures(watchdog: Watchdog, fired: Fired) -> None:
    watchdog.watch("a", deadline_ns=in_ms(50), on_exceeded=on(fired))
    key, exceeded = fired.get(timeout=2)
    assert (key, exceeded.limit) == ("a", "wall")
    assert exceeded.used >= exceeded.allowed == pytest.approx(0.05, abs=0.01)
    assert not watchdog.unwatch("a")
    assert fired.empty()


def at_ms(clock: StandingClock, milliseconds: int) -> int:
    return clock.now_ns() + milliseconds * 1_000_000


def test_an_earlier_deadline_overtakes_a_later_one(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    timed.watch("late", deadline_ns=at_ms(clock, 10_000), on_exceeded=on(fired))
    timed.watch("early", deadline_ns=at_ms(clock, 20), on_exceeded=on(fired))
    clock.advance(0.03)
    assert fired.get_nowait()[0] == "early"
    assert fired.empty()
    assert timed.unwatch("late")


def test_what_is_no_longer_watched_never_fires(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    timed.watch("a", deadline_ns=at_ms(clock, 30), on_exceeded=on(fired))
    assert timed.unwatch("a")
    timed.watch("b", deadline_ns=at_ms(clock, 80), on_exceeded=on(fired))
    clock.advance(0.1)
    assert fired.get_nowait()[0] == "b"
    assert fired.empty()


def test_a_deadline_can_be_moved_both_ways_and_lifted(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    timed.watch("a", deadline_ns=at_ms(clock, 10_000), on_exceeded=on(fired))
    assert timed.extend("a", at_ms(clock, 20))
    clock.advance(0.03)
    assert fired.get_nowait()[0] == "a"
    timed.watch("b", deadline_ns=at_ms(clock, 40), on_exceeded=on(fired))
    timed.extend("b", None)
    clock.advance(0.1)
    assert fired.empty()
    assert timed.unwatch("b")
    assert not timed.extend("b", None)


def test_watching_a_key_again_replaces_it(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    timed.watch("a", deadline_ns=at_ms(clock, 30), on_exceeded=on(fired))
    timed.watch("a", deadline_ns=at_ms(clock, 10_000), on_exceeded=on(fired))
    clock.advance(0.1)
    assert fired.empty()
    assert len(timed) == 1


@pytest.mark.parametrize(
    ("usage", "limit"),
    [
        (Usage(cpu_s=2), "cpu"),
        (Usage(memory_bytes=11, source="tree"), "memory"),
        (Usage(processes=5, source="tree"), "processes"),
        (Usage(oom_kills=1, memory_peak_bytes=10), "memory"),
        (Usage(pids_refused=1), "processes"),
    ],
)
def test_a_reading_past_a_limit_fires(watchdog: Watchdog, fired: Fired, usage: Usage, limit: str) -> None:
    limits = Limits(cpu_s=1, memory_bytes=10, processes=4)
    started = time.monotonic()
    watchdog.watch("a", limits=limits, read_usage=lambda: usage, on_exceeded=on(fired))
    assert fired.get(timeout=2)[1].limit == limit
    assert time.monotonic() - started < 0.5


def test_readings_below_the_limits_fire_nothing(watchdog: Watchdog, fired: Fired) -> None:
    limits = Limits(cpu_s=1, memory_bytes=10, processes=4)
    usage = Usage(cpu_s=0.99, memory_bytes=10, processes=4, source="tree")
    watchdog.watch("a", limits=limits, read_usage=lambda: usage, on_exceeded=on(fired))
    with pytest.raises(queue.Empty):
        fired.get(timeout=0.2)


def test_nothing_is_read_before_a_limit_can_be_reached(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    readings: list[int] = []

    def read() -> Usage:
        readings.append(clock.now_ns())
        return Usage(cpu_s=0.0)

    timed.watch(
        "a", limits=Limits(cpu_s=1000, memory_bytes=None, processes=None), read_usage=read, on_exceeded=on(fired)
    )
    clock.advance(1)
    assert not readings
    clock.advance(1001)
    assert len(readings) > 1


def test_memory_that_no_kernel_limit_holds_is_read_often(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    readings: list[None] = []

    def read() -> Usage:
        readings.append(None)
        return Usage(memory_bytes=1, cpu_s=0.01 * len(readings), source="tree")

    timed.watch("a", limits=Limits(memory_bytes=100), read_usage=read, on_exceeded=on(fired))
    clock.advance(0.5)
    assert 9 <= len(readings) <= 25


def test_an_idle_sandbox_is_read_less_and_less(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    readings: list[int] = []

    def read() -> Usage:
        readings.append(clock.now_ns())
        return Usage()

    timed.watch("a", limits=Limits(cpu_s=100), read_usage=read, on_exceeded=on(fired))
    clock.advance(2.5)
    assert 3 <= len(readings) <= 6
    assert max(later - earlier for earlier, later in itertools.pairwise(readings)) < 1_000_000_000


def test_many_dear_readings_take_a_bounded_share(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    readings: list[None] = []

    def read() -> Usage:
        readings.append(None)
        clock.take(0.002)
        return Usage(memory_bytes=1, source="tree")

    for key in range(20):
        timed.watch(key, limits=Limits(memory_bytes=100), read_usage=read, on_exceeded=on(fired))
    clock.advance(1)
    # Unbounded, 20 sandboxes at 50 ms would be 400 readings and 80 % of a processor.
    assert 20 <= len(readings) < 150


@pytest.mark.parametrize("gone", [None, ProcessLookupError()])
def test_a_sandbox_that_is_gone_is_read_no_more_but_its_deadline_stays(
    watchdog: Watchdog, fired: Fired, gone: ProcessLookupError | None
) -> None:
    readings: list[None] = []

    def read() -> Usage | None:
        readings.append(None)
        if gone is not None:
            raise gone
        return None

    watchdog.watch("a", deadline_ns=in_ms(150), limits=Limits(), read_usage=read, on_exceeded=on(fired))
    assert fired.get(timeout=2)[1].limit == "wall"
    assert len(readings) == 1


def test_a_failing_callback_does_not_end_the_watch_of_others(watchdog: Watchdog, fired: Fired) -> None:
    def fail(key: Hashable, exceeded: ExceededLimit) -> None:
        raise RuntimeError("callback")

    watchdog.watch("bad", deadline_ns=in_ms(10), on_exceeded=fail)
    watchdog.watch("good", deadline_ns=in_ms(50), on_exceeded=on(fired))
    assert fired.get(timeout=2)[0] == "good"


def test_a_callback_may_use_the_watchdog(watchdog: Watchdog, fired: Fired) -> None:
    def again(key: Hashable, exceeded: ExceededLimit) -> None:
        watchdog.watch("second", deadline_ns=in_ms(10), on_exceeded=on(fired))

    watchdog.watch("first", deadline_ns=in_ms(10), on_exceeded=again)
    assert fired.get(timeout=2)[0] == "second"


def test_no_thread_exists_before_something_is_watched_nor_after_the_stop() -> None:
    watchdog = Watchdog()
    assert not [thread for thread in threading.enumerate() if thread.name == "pyisolate-watchdog"]
    watchdog.watch("a", deadline_ns=in_ms(10_000), on_exceeded=lambda *_: None)
    watchdog.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "pyisolate-watchdog"]
    with pytest.raises(RuntimeError, match="stopped"):
        watchdog.watch("a", on_exceeded=lambda *_: None)


def test_short_requests_do_not_pile_up(watchdog: Watchdog, fired: Fired) -> None:
    for number in range(5000):
        watchdog.watch(number, deadline_ns=in_ms(60_000), on_exceeded=on(fired))
        watchdog.unwatch(number)
    assert len(watchdog._heap) < 200
    assert len(watchdog) == 0


def test_a_thousand_deadlines_all_fire(watchdog: Watchdog, fired: Fired) -> None:
    for number in range(1000):
        watchdog.watch(number, deadline_ns=in_ms(20 + number % 50), on_exceeded=on(fired))
    assert sorted(fired.get(timeout=5)[0] for _ in range(1000)) == list(range(1000))  # type: ignore[type-var]


def test_what_goes_beside_is_called_while_anything_is_watched(
    timed: Watchdog, clock: StandingClock, fired: Fired
) -> None:
    calls: list[float] = []

    def look() -> float:
        calls.append(clock.now_ns() / 1e9)
        return 0.2

    timed.accompany(look)
    assert timed._thread is None
    timed.watch("a", deadline_ns=at_ms(clock, 1000), on_exceeded=on(fired))
    clock.advance(0.99)
    assert calls == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=0.01)
    clock.advance(0.02)
    assert fired.get_nowait()[0] == "a"
    clock.advance(10)
    assert len(calls) == 6  # the last one found nothing to watch
    timed.watch("b", deadline_ns=at_ms(clock, 10_000), on_exceeded=on(fired))
    clock.advance(0.25)
    assert len(calls) == 7


def test_a_companion_that_fails_ends_no_watch(timed: Watchdog, clock: StandingClock, fired: Fired) -> None:
    calls = []

    def look() -> float:
        calls.append(1)
        raise ZeroDivisionError

    timed.accompany(look)
    timed.watch("a", deadline_ns=at_ms(clock, 500), on_exceeded=on(fired))
    clock.advance(1)
    assert fired.get_nowait()[0] == "a"
    assert calls == [1]
