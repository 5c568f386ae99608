"""Kernel tables of policies: kept while somebody needs them, closed when many others came since."""

from __future__ import annotations

import threading

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.kernel.prepared import Prepared
from pyisolate.supervisor.policy_cache import KEPT
from tests import inside

pytestmark = pytest.mark.usefixtures("kept_supervisor")


def prepare_others(supervisor: pyisolate.Supervisor, count: int = KEPT + 4) -> None:
    for number in range(count):
        with inside.runtime(supervisor).tables.hold(
            Policy.preset("compute").allow_connect(f"127.0.0.1:{1000 + number}")
        ):
            pass


def is_open(prepared: Prepared) -> bool:
    tables = [table for table in (prepared.root_view, prepared.ruleset) if table is not None]
    assert tables
    return all(table.fd >= 0 for table in tables)


def test_what_is_held_stays_open_whatever_comes(supervisor: pyisolate.Supervisor) -> None:
    with inside.runtime(supervisor).tables.hold(Policy.preset("compute")) as prepared:
        prepare_others(supervisor)
        assert is_open(prepared)
        with inside.runtime(supervisor).tables.hold(Policy.preset("compute")) as again:
            assert again is prepared
    prepare_others(supervisor)  # the control
    assert not is_open(prepared)


def test_what_a_sandbox_has_stays_open(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("lives", "compute") as sandbox:
        prepared = inside.session(sandbox).prepared
        prepare_others(supervisor)
        assert is_open(prepared)
    prepare_others(supervisor)
    assert not is_open(prepared)


def test_closed_tables_are_not_kept_for_a_spare(supervisor: pyisolate.Supervisor) -> None:
    with inside.runtime(supervisor).tables.hold(Policy.preset("readonly")) as prepared:
        pass
    with inside.runtime(supervisor).tables.keep(prepared) as there:
        assert there
        prepare_others(supervisor)
        assert is_open(prepared)
    prepare_others(supervisor)
    with inside.runtime(supervisor).tables.keep(prepared) as there:
        assert not there


def test_spawns_under_ever_new_policies_never_meet_closed_tables(supervisor: pyisolate.Supervisor) -> None:
    """More policies at a time than are kept, each prepared while others are pushed out."""
    failures: list[BaseException] = []

    def spawn(first: int) -> None:
        try:
            for number in range(first, first + 40):
                policy = Policy.preset("compute").allow_read(f"/etc/hostname{number}").allow_read("/etc/hostname")
                with supervisor.spawn("churns", policy, enforcement="best_effort") as sandbox:
                    assert sandbox.eval("open('/etc/hostname').close()") is None
                    with pytest.raises(pyisolate.PolicyError):
                        sandbox.exec("open('/etc/passwd')")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=spawn, args=(start * 1000,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
