"""Which resource limits a policy's limits come to."""

from __future__ import annotations

import resource

from pyisolate.limits import rlimit
from pyisolate.policy.compiled import Limits

NOTHING = Limits(
    wall_s=None,
    cpu_s=None,
    memory_bytes=None,
    processes=None,
    open_files=None,
    file_size_bytes=None,
    output_bytes=None,
    messages=None,
)


def compute(limits: Limits, **given: bool) -> rlimit.Table:
    arguments = {"cgroup_memory": True, "own_user_namespace": True, **given}
    return rlimit.compute(limits, **arguments)


def test_without_limits_only_the_fixed_ones_are_set() -> None:
    assert set(compute(NOTHING)) == {
        resource.RLIMIT_CORE,
        resource.RLIMIT_MEMLOCK,
        resource.RLIMIT_MSGQUEUE,
        resource.RLIMIT_SIGPENDING,
        resource.RLIMIT_NICE,
        resource.RLIMIT_RTPRIO,
    }


def test_a_core_is_never_dumped() -> None:
    assert compute(Limits())[resource.RLIMIT_CORE] == (0, 0)


def test_the_stack_is_left_alone() -> None:
    assert resource.RLIMIT_STACK not in compute(Limits(), cgroup_memory=False)


def test_the_processor_backstop_is_above_the_limit_and_cannot_be_ignored() -> None:
    assert compute(Limits(cpu_s=2.5))[resource.RLIMIT_CPU] == (4, 5)


def test_address_space_is_bounded_only_where_no_group_bounds_memory() -> None:
    assert resource.RLIMIT_AS not in compute(Limits())
    table = compute(Limits(), cgroup_memory=False)
    assert table[resource.RLIMIT_DATA][0] > 256 << 20
    assert table[resource.RLIMIT_AS][0] > table[resource.RLIMIT_DATA][0]


def test_processes_are_not_counted_per_user_of_the_host() -> None:
    assert resource.RLIMIT_NPROC not in compute(Limits(), own_user_namespace=False)


def test_the_counted_limit_of_tasks_comes_before_the_backstop() -> None:
    assert compute(Limits(processes=16))[resource.RLIMIT_NPROC] == (20, 20)
    assert compute(Limits(processes=1))[resource.RLIMIT_NPROC] == (5, 5)


def test_a_guest_gets_its_descriptors_beside_the_cells_own() -> None:
    assert compute(Limits(open_files=10))[resource.RLIMIT_NOFILE] == (10 + rlimit.CELL_DESCRIPTORS,) * 2
