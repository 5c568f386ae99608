"""The matrix of `tests/truth`: nearly every refused operation leaves its one event, and each field of it is right."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate.policy.suggest import apply
from tests.truth.measure import Rates, attempt, cases, measure
from tests.truth.operations import FILES, FLOOR, IMPORTS, NET, PROCESS
from tests.truth.suggestions import Advice, follow
from tests.truth.world import World, make_world

#: each case is a sandbox of its own, some hundred of them
pytestmark = pytest.mark.timeout(300)

WANTED_RIGHT, WANTED_ANY = 0.99, 1.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world() as made:
        yield made


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor() as started:
        yield started


@pytest.fixture(scope="module")
def rates(supervisor: pyisolate.Supervisor, world: World) -> Rates:
    return measure(supervisor, world, cases(world))


def test_the_matrix_is_large_and_most_of_it_is_refused(rates: Rates) -> None:
    assert len(rates.verdicts) >= 230
    assert len(rates.refused) >= 0.95 * len(rates.verdicts)


def test_every_refused_operation_leaves_an_event(rates: Rates) -> None:
    missing = [f"{verdict.operation} ({verdict.way})" for verdict in rates.refused if not verdict.events]
    assert rates.rate("any") >= WANTED_ANY, missing


def test_nearly_every_event_is_right(rates: Rates) -> None:
    wrong = [f"{v.operation} ({v.way}): {'; '.join(v.problems)}" for v in rates.refused if not v.right]
    assert rates.rate("right") >= WANTED_RIGHT, wrong


#: What replaces the guest is not asked about afterwards; a name that the guest's view alone leads elsewhere; a socket
#: that only cells on the host's network are refused; a file that was made before its record is judged; a fork, after
#: which two go on.
OTHERWISE = (
    "exec",
    "subprocess",
    "system",
    "popen",
    "unix",
    "another's descriptor",
    "create in",
    "fork",
    "vfork",
)


def _reached(event: pyisolate.DenialEvent) -> str:
    """Return an event's target; of a program what it leads to: a guest without it cannot follow its link."""
    return os.path.realpath(event.target) if event.capability == "process.exec" else event.target


def test_monitor_would_refuse_what_enforcing_refuses(
    supervisor: pyisolate.Supervisor, world: World, rates: Rates
) -> None:
    missing, policy = [], world.policy().with_mode("monitor")
    enforced = {(verdict.operation, verdict.way): verdict.denials for verdict in rates.verdicts}
    for operation, way, code in cases(world):
        if operation.name.startswith(OTHERWISE):
            continue
        world.restore()
        _, monitored = attempt(supervisor, policy, code)
        would = {(event.capability, _reached(event)) for event in monitored}
        missing += [
            f"{operation.name} ({way}): {event}"
            for event in enforced[operation.name, way]
            if (event.capability, _reached(event)) not in would
        ]
    assert missing == []


@pytest.mark.once
def test_a_shadow_policy_would_refuse_what_enforcing_refuses() -> None:
    missing = []
    with pyisolate.Supervisor() as supervisor:
        compared = [one for one in FILES if one.native and not one.name.startswith(UNSHADOWED)]
        for operation in compared[::3]:  # each kind of call; all of them take seconds
            with make_world() as world:
                os.chmod(world.root, 0o777)
                rights = ["read", "write", "create", "delete", "metadata"]
                wide = apply(world.policy(denying=False), {"fs": [{"path": str(world.root), "allow": rights}]})
                code = operation.native.format(**world.names())
                _, events = attempt(supervisor, wide.with_name("wide"), code, shadow=world.policy())
                targets = [target.format(**world.names()) for target in operation.target]
            right = [
                one
                for one in events
                if one.shadow
                and one.capability.value in operation.capability
                and any(fnmatch.fnmatchcase(one.target, target) for target in targets)
            ]
            missing += [] if right else [f"{operation.name}: {events}"]
    assert missing == []


#: The task's own descriptors are granted or not with its files; /etc and /proc are in no root view here; a file that
#: was made before its record is judged.
UNSHADOWED = (
    "create in",
    "reopen",
    "read by a link",
    "another's",
    "/proc",
    "read /etc/shadow",
    "look at a file of the host's",
)


#: What no rule can grant: the files of a task, moves between directories, and what file permissions or the kernel
#: refuse to any guest.
WITHOUT_ADVICE = (
    "reopen",
    "rename",
    "hard link",
    "read by a link",
    "another's",
    "/proc",
    "socket",
    "unix",
    "ptrace",
    "read another's memory",
    "kill",
    "pidfd",
    "priority",
    "affinity",
    "a higher",
    "real time",
    "capset",
    "read /etc/shadow",
    "look at a file of the host's",
)


IMPORTED = {one.name for one in IMPORTS}
#: What a module tries besides while it is imported, and does without: psutil counts interrupts.
TRIED = "fs.read /proc/stat "


def _broken(followed: list[Advice], *, advised: bool) -> list[str]:
    """Return the promises that were not kept; with `advised`, also where there was none."""
    return [
        f"{a.operation} ({a.way}): {a.outcome}, {a.suggestion}, {a.events}"
        for a in followed
        if not (a.kept or (a.suggestion is None and not advised))
        and not (a.operation in IMPORTED and a.events and all(event.startswith(TRIED) for event in a.events))
    ]


@pytest.mark.slow
def test_a_suggestion_applied_once_lets_the_operation_pass() -> None:
    advised = [one for one in (*FILES, *NET, *PROCESS, *IMPORTS) if not one.name.startswith(WITHOUT_ADVICE)]
    ways = [(one, way) for one in advised for way in one.ways() if way != "raw"]
    with pyisolate.Supervisor() as supervisor:
        followed = follow(supervisor, ways)
    assert _broken(followed, advised=True) == []
    assert len(followed) >= 90


@pytest.mark.slow
@pytest.mark.parametrize("in_child", [False, True])
def test_what_is_suggested_of_any_operation_by_any_way_lets_it_pass(in_child: bool) -> None:
    """Also where there need be no advice: by raw calls, of the floor, and by a process that the guest makes."""
    asked = [
        (one, way)
        for one in (*FILES, *NET, *PROCESS, *FLOOR, *IMPORTS)
        for way in one.ways()
        if in_child or way == "raw" or one in FLOOR or one.name.startswith(WITHOUT_ADVICE)
    ]
    if in_child:  # one way of each: it is the same kernel
        asked = [(one, list(one.ways())[-1]) for one in dict.fromkeys(one for one, _ in asked)]
    with pyisolate.Supervisor() as supervisor:
        followed = follow(supervisor, asked, in_child=in_child)
    assert _broken(followed, advised=False) == []
    assert sum(a.kept for a in followed) >= 40, "there are suggestions to be followed"
