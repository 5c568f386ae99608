"""What the host may spend for a sandbox: a budget beside others that keep to theirs, all of it where there are none."""

from __future__ import annotations

import itertools
import time

import pytest

from pyisolate.cell.turns import LONGEST_S, Turn
from pyisolate.native.account import HOST_BURST_S, HOST_RESERVE_S, HOST_SHARE, OTHERS_S, Account

SLICE_S = 0.001
#: Each test has a time of its own, at which nobody has been served yet.
_epochs = itertools.count(time.monotonic_ns() + 10**15, 10**13)


class Clock:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.now_ns = next(_epochs)

    def pass_by(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


def flood(account: Account, clock: Clock, seconds: float, *others: Account) -> float:
    """Use the host's time whenever it may, beside others that are served every 10 ms; return how much of it."""
    used, until, serve = 0.0, clock.now_ns + int(seconds * 1e9), clock.now_ns
    while clock.now_ns < until:
        if clock.now_ns >= serve:
            serve += 10_000_000
            for one in others:
                one.served(clock.now_ns)
        if rest := account.wait_s(clock.now_ns):
            clock.pass_by(min(rest, 0.01))
            continue
        clock.pass_by(SLICE_S)
        account.spend(SLICE_S, clock.now_ns)
        used += SLICE_S
    return used


def test_a_flood_that_is_alone_is_never_put_off() -> None:
    assert flood(Account(), Clock(), 3.0) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("others", [1, 5])
def test_a_flood_beside_others_keeps_to_its_budget(others: int) -> None:
    beside = [Account() for _ in range(others)]
    clock, account = Clock(), Account()
    at_once = HOST_BURST_S + HOST_RESERVE_S
    assert flood(account, clock, 10.0, *beside) == pytest.approx(10 * HOST_SHARE + at_once, rel=0.1)
    assert flood(account, clock, 10.0, *beside) == pytest.approx(10 * HOST_SHARE * 1.1, rel=0.1)


def test_each_has_a_budget_of_its_own() -> None:
    clock, one, other, modest = Clock(), Account(), Account(), Account()
    one.spend(1.0, clock.now_ns)
    modest.served(clock.now_ns)
    assert one.wait_s(clock.now_ns)
    assert not other.wait_s(clock.now_ns)


def test_who_is_past_a_budget_holds_back_nobody() -> None:
    clock, greedy, flooding = Clock(), Account(), Account()
    greedy.spend(1.0, clock.now_ns)
    greedy.served(clock.now_ns)
    assert flood(flooding, clock, 0.5) == pytest.approx(0.5, rel=0.01)


def test_who_was_not_served_for_a_while_is_not_waited_for() -> None:
    clock, quiet, flooding = Clock(), Account(), Account()
    quiet.served(clock.now_ns)
    flooding.spend(1.0, clock.now_ns)
    assert flooding.wait_s(clock.now_ns)
    clock.pass_by(OTHERS_S + 0.002)
    flooding.spend(1.0, clock.now_ns)
    assert not flooding.wait_s(clock.now_ns)


def test_a_burst_is_free_and_its_budget_is_refilled() -> None:
    clock, other, account = Clock(), Account(), Account()
    account.spend(HOST_RESERVE_S + HOST_BURST_S, clock.now_ns)
    clock.pass_by(HOST_BURST_S / HOST_SHARE)
    for _ in range(3):
        other.served(clock.now_ns)
        # the reserve is refilled since then, ten times as slowly
        account.spend(HOST_BURST_S + 0.09 * HOST_BURST_S, clock.now_ns)
        assert not account.wait_s(clock.now_ns)
        account.spend(SLICE_S, clock.now_ns)
        assert account.wait_s(clock.now_ns) == pytest.approx(SLICE_S / HOST_SHARE, rel=0.2)
        clock.pass_by(SLICE_S / HOST_SHARE)
        assert not account.wait_s(clock.now_ns)
        clock.pass_by(HOST_BURST_S / HOST_SHARE)


def test_what_an_honest_guest_is_refused_in_a_burst_is_paid_from_a_reserve_that_lasts() -> None:
    clock, other, account = Clock(), Account(), Account()
    other.served(clock.now_ns)
    account.spend(HOST_BURST_S + HOST_RESERVE_S, clock.now_ns)
    assert not account.wait_s(clock.now_ns)
    clock.pass_by(10.0)
    other.served(clock.now_ns)
    account.spend(HOST_BURST_S + HOST_RESERVE_S, clock.now_ns)
    assert account.wait_s(clock.now_ns)
    clock.pass_by(110.0)
    other.served(clock.now_ns)
    account.spend(HOST_BURST_S + HOST_RESERVE_S, clock.now_ns)
    assert not account.wait_s(clock.now_ns)


def test_nobody_waits_without_end() -> None:
    clock, other, account = Clock(), Account(), Account()
    other.served(clock.now_ns)
    account.spend(3600.0, clock.now_ns)
    assert account.wait_s(clock.now_ns) == pytest.approx(0.1)


def test_accounts_of_ended_sandboxes_are_used_again_and_forget_what_was_owed() -> None:
    clock, other = Clock(), Account()
    other.served(clock.now_ns)
    for _ in range(40_000):  # there are 16,384
        account = Account()
        assert not account.wait_s(clock.now_ns)
        account.spend(1.0, clock.now_ns)
        assert account.wait_s(clock.now_ns)


def test_a_cells_frames_rest_in_short_pieces_which_are_counted() -> None:
    turn, other = Turn(), Account()
    assert turn.rest_s() == 0.0
    assert turn.account.held_s == 0.0
    turn.used(1.0)
    other.served()
    assert turn.rest_s() == LONGEST_S
    assert turn.account.held_s == pytest.approx(LONGEST_S)
    assert turn.spent_s == 1.0


def test_a_cell_whose_serving_failed_rests_also_where_it_is_alone() -> None:
    turn = Turn()
    turn.put_off(time.monotonic() + 3600)
    assert turn.left_s() == LONGEST_S
