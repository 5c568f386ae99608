"""Fair turns: a guest that sends without end leaves time for the others, and waits for nobody where there are none."""

from __future__ import annotations

import pytest

from pyisolate.cell.turns import BURST_S, FREE_SHARE, LONGEST_S, SLICE_S, Turn, Turns


def flood(turn: Turn, now: float, until: float) -> float:
    """Use the host's time whenever it may; return how much of it."""
    used = 0.0
    while now < until:
        began = max(now, turn.resume_at)
        now = began + SLICE_S
        turn.used(SLICE_S, now)
        used += SLICE_S
    return used


def test_a_flood_that_is_alone_is_never_put_off() -> None:
    assert flood(Turns().join(), 100.0, 101.0) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("others", [1, 5])
def test_a_flood_beside_others_takes_what_each_of_them_could(others: int) -> None:
    turns = Turns()
    quiet = [turns.join() for _ in range(others)]
    turn, used = turns.join(), 0.0
    for step in range(100):
        for one in quiet:
            one.used(0.0, 100 + step / 100)
        used += flood(turn, 100 + step / 100, 100.01 + step / 100)
    assert used == pytest.approx(1 / (others + 1) + BURST_S + FREE_SHARE, rel=0.2)


def test_who_has_left_or_rests_is_not_waited_for() -> None:
    turns = Turns()
    gone, resting, turn = turns.join(), turns.join(), turns.join()
    gone.used(0.0, 100.0)
    resting.used(0.0, 99.0)
    turns.leave(gone)
    assert flood(turn, 100.0, 100.5) == pytest.approx(0.5, rel=0.01)


def test_nobody_is_left_unread_for_long_and_a_burst_is_free() -> None:
    turns = Turns()
    for _ in range(1000):
        turns.join().used(0.0, 100.0)
    turn = turns.join()
    turn.used(BURST_S, 100.0 + BURST_S)
    assert turn.resume_at == 0.0
    turn.used(0.08, 100.085)
    assert turn.resume_at == pytest.approx(100.085 + LONGEST_S)
