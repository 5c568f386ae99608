"""Which of the control groups made ready for a zygote's next cells is given back, and when."""

from __future__ import annotations

from typing import cast

import pytest

from pyisolate.limits.cgroup import CgroupLease
from pyisolate.limits.groups_ahead import GroupsAhead


class Group:
    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def groups() -> list[Group]:
    return [Group(), Group()]


@pytest.fixture
def leases(groups: list[Group]) -> list[CgroupLease]:
    return cast(list[CgroupLease], groups)


def test_a_cell_takes_its_own_group_and_no_other(groups: list[Group], leases: list[CgroupLease]) -> None:
    ahead = GroupsAhead()
    ahead.put(10, leases[0])
    assert ahead.take(11) is None
    assert ahead.take(10) is leases[0]
    assert ahead.take(10) is None
    ahead.end(10)
    ahead.close()
    assert groups[0].released == 0


def test_a_group_of_a_cell_that_is_not_to_be_goes_with_the_next(groups: list[Group], leases: list[CgroupLease]) -> None:
    ahead = GroupsAhead()
    for init, lease in enumerate(leases):
        ahead.put(init, lease)
    assert [one.released for one in groups] == [1, 0]


def test_a_group_of_a_cell_that_warms_up_is_kept(groups: list[Group], leases: list[CgroupLease]) -> None:
    ahead = GroupsAhead()
    ahead.put(0, leases[0])
    ahead.forked(0)
    ahead.put(1, leases[1])
    assert ahead.take(0) is leases[0]
    ahead.put_back(0, leases[0])
    assert [one.released for one in groups] == [0, 0]
    ahead.end(0)
    assert [one.released for one in groups] == [1, 0]
    assert ahead.take(1) is leases[1]


def test_a_group_comes_back_for_a_cell_that_has_ended(groups: list[Group], leases: list[CgroupLease]) -> None:
    ahead = GroupsAhead()
    ahead.put(0, leases[0])
    ahead.forked(0)
    assert ahead.take(0) is leases[0]
    ahead.end(0)
    ahead.put_back(0, leases[0])
    assert groups[0].released == 1


def test_nothing_is_kept_for_a_zygote_that_has_ended(groups: list[Group], leases: list[CgroupLease]) -> None:
    ahead = GroupsAhead()
    ahead.put(0, leases[0])
    ahead.forked(0)
    ahead.close()
    ahead.put(1, leases[1])
    assert [one.released for one in groups] == [1, 1]
    assert (ahead.take(0), ahead.take(1)) == (None, None)
