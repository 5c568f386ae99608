"""Who keeps the processor gives way, and nobody for longer than that. Readings and clock are made up here."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pyisolate.limits.turns import Turn, Turns, Weight

SHARES = Weight("cpu.shares", "256")


def group(directory: Path) -> str:
    """Make what stands for a control group: the kernel makes its files."""
    directory.mkdir()
    for name in ("cpu.idle", "cpu.shares", "cpu.weight"):
        (directory / name).write_text("")
    return str(directory)


class Machine:
    """Groups that use what a test says, and what a look at them costs."""

    def __init__(self, directory: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.reads = 1000.0, 0
        self.spent_s = [0.0] * number
        self.turns = []
        for one in range(number):
            self.turns.append(Turn(group(directory / f"{one}"), SHARES, lambda one=one: self._read(one)))  # type: ignore[misc]
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
        self.sampler = Turns(lambda: sum(self.spent_s), lambda: self.turns, lambda: self.now_s)

    def _read(self, one: int) -> float:
        self.reads += 1
        return self.spent_s[one]

    def go_on(self, parts: dict[int, float], looks: int = 1) -> float:
        """Let these groups use these parts of one processor for so many looks; return the last pause."""
        pause_s = 0.1
        for _ in range(looks):
            self.now_s += 0.1
            for one, part in parts.items():
                self.spent_s[one] += 0.1 * part
            pause_s = self.sampler.look()
        return pause_s

    def giving_way(self) -> set[int]:
        return {number for number, turn in enumerate(self.turns) if turn.gives_way}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, 200, monkeypatch)


#: More looks than it takes to find one of that many: each reads some that were not at work.
MANY = 8


def test_who_computes_gives_way_and_those_of_short_requests_do_not(machine: Machine) -> None:
    machine.go_on({0: 0.9, 1: 0.05, 2: 0.003}, MANY)
    assert machine.giving_way() == {0}


def test_who_rests_is_normal_at_the_next_look(machine: Machine) -> None:
    machine.go_on({7: 1.0}, MANY)
    assert machine.giving_way() == {7}
    machine.go_on({})
    assert not machine.giving_way()


def test_who_is_left_nothing_has_its_weight_again(machine: Machine) -> None:
    """A busy service takes all: who gives way to it would starve."""
    machine.go_on({7: 0.5}, MANY)
    machine.go_on({7: 0.01, 8: 0.1})
    assert not machine.giving_way()


def test_who_is_left_a_small_part_of_what_it_had_has_its_weight_again(machine: Machine) -> None:
    """On many processors even a weight of 3 gives each thread a little."""
    machine.go_on({7: 8.0}, MANY)
    machine.go_on({7: 1.5})
    assert machine.giving_way() == {7}
    machine.go_on({7: 0.9})
    assert not machine.giving_way()
    machine.go_on({7: 8.0})
    assert machine.giving_way() == {7}


def test_who_still_has_a_little_keeps_giving_way(machine: Machine) -> None:
    machine.go_on({7: 0.5}, MANY)
    machine.go_on({7: 0.1}, 3)
    assert machine.giving_way() == {7}


def test_of_many_who_fill_the_processors_each_gives_way(machine: Machine) -> None:
    many = dict.fromkeys(range(20), 0.1)
    machine.go_on(many | {30: 0.003}, MANY)
    assert machine.giving_way() == set(range(20))


def test_the_same_part_is_nobodys_to_give_where_processors_are_free(machine: Machine) -> None:
    machine.go_on(dict.fromkeys(range(5), 0.1), MANY)
    assert not machine.giving_way()


def test_idle_sandboxes_are_not_read(machine: Machine) -> None:
    assert machine.go_on({}, MANY) > 0.1
    machine.go_on({3: 0.01, 4: 0.05}, MANY)
    assert machine.reads == 0
    machine.go_on({7: 1.0}, MANY)
    assert machine.giving_way() == {7}
    machine.reads = 0
    machine.go_on({7: 1.0}, 10)
    assert machine.reads == 10  # one that works, of two hundred
    machine.go_on({})
    machine.reads = 0
    machine.go_on({}, 10)
    assert machine.reads == 0


def test_what_was_used_long_ago_is_not_held_against_anybody(machine: Machine) -> None:
    """A group that was not read for long has used more since than anybody could in a look."""
    machine.go_on({1: 1.0}, MANY)
    machine.go_on({1: 1.0, 9: 0.1}, 100)
    machine.go_on({1: 1.0, 9: 0.1, 10: 0.15}, MANY)  # which of them it was is not known, so all are read
    assert machine.giving_way() == {1}


def test_a_group_that_is_gone_stops_nobody(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> float:
        raise OSError(errno.ENODEV, "gone")

    monkeypatch.setattr(machine.turns[0], "_spent_s", gone)
    machine.go_on({7: 1.0}, MANY)
    assert machine.giving_way() == {7}


def test_who_ends_is_normal_and_stays_so(machine: Machine) -> None:
    machine.go_on({7: 1.0}, MANY)
    machine.turns[7].end()
    machine.go_on({7: 1.0}, MANY)
    assert not machine.giving_way()


def test_the_next_sandbox_of_a_group_begins_with_nothing_used(machine: Machine) -> None:
    machine.go_on({7: 1.0}, MANY)
    machine.spent_s[7] += 0.1
    machine.turns[7].end()
    machine.turns[7].start()
    assert not machine.giving_way()
    machine.go_on({8: 1.0})
    assert 7 not in machine.giving_way()
    machine.go_on({7: 1.0}, MANY)
    assert 7 in machine.giving_way()


def test_what_the_kernel_is_told(tmp_path: Path) -> None:
    """Its own weight is written last: a group that does not give way any more has the default weight."""
    turn = Turn(group(tmp_path / "one"), SHARES, lambda: 0.0)
    assert turn.prove()
    assert (tmp_path / "one/cpu.idle").read_text() == "0"
    assert (tmp_path / "one/cpu.shares").read_text() == "256"


def test_where_the_kernel_refuses_all_goes_on(tmp_path: Path) -> None:
    spent = iter([0.0, 1.0, 2.0])
    turn = Turn(f"{tmp_path}", SHARES, lambda: next(spent))
    assert not turn.prove()
    turn.look(1.0, 0.0, 0.2)
    turn.look(2.0, 1.0, 0.2)
    assert not turn.gives_way
    turn.end()


def test_a_group_without_a_weight_has_no_turn() -> None:
    turn = Turn(None, None, lambda: 0.0)
    turn.begin()
    assert not turn.prove()
