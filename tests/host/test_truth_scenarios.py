"""A sample of the scenarios of `tests/truth`: calls after one another, programs and libraries, and all their events."""

from __future__ import annotations

import pytest

import pyisolate
from tests.truth.libraries import LIBRARIES
from tests.truth.places import make_places
from tests.truth.programs import PROGRAMS
from tests.truth.scenarios import Scenario, run
from tests.truth.sequences import SEQUENCES

ALL = (*SEQUENCES, *PROGRAMS, *LIBRARIES)
#: Of each kind of fault that was met by them. `python -m tests.truth scenarios` runs them all.
SAMPLE = (
    "bind to a device after socket",
    "with and without a hook by one instruction",
    "a guest's own PermissionError after an allowed call",
    "from a thread whose target is open",
    "a forked child, seven",
    "native, names",
    "bash: mkdir -p <rw>/x/y",
    "bash: names that are taken",
    "bash: a name that is taken and hidden",
    "bash: a granted file that is not there",
    "run: /usr/bin/mkdir -p <ro>/new",
    "bash: a link across",
    "os.link to what can be read",
    "os.rename between grants",
    "a granted file that is not there, made",
    "a granted file that is there, removed",
    "os.walk over a denied directory",
    "subprocess.run of another",
)


def test_each_has_a_name_of_its_own_and_the_sample_is_of_them() -> None:
    names = {one.name for one in ALL}
    assert len(names) == len(ALL)
    assert names.issuperset(SAMPLE)
    assert all((SEQUENCES, PROGRAMS, LIBRARIES))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_the_sample_leaves_the_events_that_it_should(mode: str) -> None:
    by_name: dict[str, Scenario] = {one.name: one for one in ALL}
    with make_places() as places, pyisolate.Supervisor() as supervisor:
        outcomes = run(supervisor, places, [by_name[name] for name in SAMPLE], mode)
    assert {one.scenario.name: (one.problems, one.events) for one in outcomes if one.problems} == {}
