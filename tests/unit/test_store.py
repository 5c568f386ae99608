"""The store is bounded, coalesces, and never loses a count; followers see everything that stays."""

from __future__ import annotations

import gc
import os
import threading
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.telemetry.store import ClosedStores, EventStore
from tests.telemetry_events import event


def test_duplicates_are_one_event_with_exact_count_and_times() -> None:
    store = EventStore()
    for moment in (30, 10, 20):
        store.add(event(monotonic_ns=moment, count=2))
    (one,) = store.events()
    assert (one.count, one.first_seen, one.last_seen) == (6, 10, 30)


@pytest.mark.parametrize(
    "changes",
    [{"target": "/x"}, {"origin": "other.py:1"}, {"verdict": Verdict.WOULD_DENY}, {"capability": Capability.FS_WRITE}],
)
def test_what_differs_stays_apart(changes: dict[str, object]) -> None:
    store = EventStore()
    store.add(event())
    store.add(event(**changes))
    assert [e.count for e in store.events()] == [1, 1]


def test_after_the_window_a_duplicate_is_a_new_event() -> None:
    store = EventStore(coalesce_window_s=0.01)
    store.add(event())
    time.sleep(0.02)
    store.add(event())
    assert len({e.event_id for e in store.events()}) == 2


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from("ac"), st.integers(0, 8)), max_size=60))
def test_completing_events_keeps_every_count(capacity: int, steps: list[tuple[str, int]]) -> None:
    store, added = EventStore(capacity), []
    shown: dict[str, int] = {}
    version = 0
    for step, number in steps:
        if step == "a":
            added.append(event(target=f"/{number % 4}"))
            store.add(added[-1])
        elif added:
            one = added.pop(number % len(added))
            store.amend(one, msgspec.structs.replace(one, origin="complete.py:1"))
        assert store.total == store.lost + sum(e.count for e in store.events())
        assert len(store.events()) <= capacity
        ids = [e.event_id for e in store.events()]
        assert len(ids) == len(set(ids))
        fresh, version = store.since(version)
        shown.update((e.event_id, e.count) for e in fresh)
        assert {e.event_id: e.count for e in store.events()}.items() <= shown.items()


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=80))
def test_the_counts_always_add_up(capacity: int, adds: list[tuple[int, int]]) -> None:
    store = EventStore(capacity)
    evicted = sum(store.add(event(target=f"/{name}", count=count)) for name, count in adds)
    assert len(store.events()) <= capacity
    assert store.lost == evicted
    assert store.total == sum(count for _, count in adds) == store.lost + sum(e.count for e in store.events())


def test_a_flood_keeps_memory_flat_and_counts_exact() -> None:
    store, records = EventStore(100), [event(target=f"/{n}") for n in range(500)]
    for _ in range(100):
        for one in records:
            store.add(one)
    gc.collect()
    assert store.total == 50_000
    assert len(store.events()) == 100
    assert len(store._latest) <= 100


def test_a_follower_sees_old_and_new_in_order_and_ends_with_the_sandbox() -> None:
    store = EventStore()
    store.add(event(target="/0"))

    def produce() -> None:
        for number in range(1, 50):
            store.add(event(target=f"/{number}"))
        store.close()

    thread = threading.Thread(target=produce)
    thread.start()
    seen = [e.target for e in store.follow()]
    thread.join()
    assert seen == [f"/{n}" for n in range(50)]


def test_a_follower_gets_the_last_count_of_a_flood_without_reading_every_one() -> None:
    store = EventStore()

    def produce() -> None:
        for _ in range(20_000):
            store.add(event())
        store.close()

    thread = threading.Thread(target=produce)
    thread.start()
    counts = [e.count for e in store.follow()]
    thread.join()
    assert counts[-1] == 20_000
    assert counts == sorted(counts)


def test_a_follower_gives_up_after_quiet_seconds() -> None:
    started = time.monotonic()
    assert list(EventStore().follow(timeout=0.05)) == []
    assert 0.04 < time.monotonic() - started < 2


def test_several_followers_each_see_all() -> None:
    store, seen = EventStore(), [[], []]

    def follow(into: list[str]) -> None:
        into.extend(e.target for e in store.follow())

    threads = [threading.Thread(target=follow, args=(into,)) for into in seen]
    for thread in threads:
        thread.start()
    for number in range(20):
        store.add(event(target=f"/{number}"))
    store.close()
    for thread in threads:
        thread.join()
    assert seen == [[f"/{n}" for n in range(20)]] * 2


def test_many_threads_lose_no_count() -> None:
    store = EventStore(10)

    def add() -> None:
        for number in range(2000):
            store.add(event(target=f"/{number % 30}"))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.total == 8000 == store.lost + sum(e.count for e in store.events())


def test_a_completed_event_replaces_the_incomplete_one_only() -> None:
    store = EventStore()
    first = event()
    store.add(first)
    full = msgspec.structs.replace(first, origin="a.py:9 in g")
    assert store.amend(first, full) == 0
    assert store.events() == [full]
    store.add(first)  # the same refusal again, incomplete again: its own event, until it is complete as well
    assert len(store.events()) == 2
    assert store.amend(first, full) == 0
    assert [e.count for e in store.events()] == [2]
    assert store.total == 2
    assert store.amend(event(target="/other"), full) is None


def test_a_store_survives_a_fork_while_its_lock_is_held() -> None:
    store = EventStore()
    with store._changed:
        child = os.fork()
        if child == 0:
            try:
                store.add(event())
                os._exit(0 if store.total == 1 else 1)
            except BaseException:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_closed_stores_are_kept_by_number_of_events() -> None:
    kept, template = ClosedStores(), event()
    for number in range(50):
        store = EventStore()
        for target in range(1000):
            store.add(msgspec.structs.replace(template, target=f"/{target}"))
        kept.keep(f"s{number}", store)
    assert kept.get("s0") is None
    assert len(kept.get("s49").events()) == 1000
    assert sum(kept.get(f"s{n}") is not None for n in range(50)) == 20
