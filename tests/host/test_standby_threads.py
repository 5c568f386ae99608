"""Sandbox threads confined ahead of `spawn`: of one policy, given to one sandbox, ended with the supervisor."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.choices import Enforcement
from pyisolate.native import landlock, process
from pyisolate.sandbox.thread import ThreadSession
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.host.test_thread import RAW_OPEN
from tests.require import require
from tests.thread_limits import WITHOUT_UNHELD
from tests.waiting import until

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    before = waiting()
    with pyisolate.Supervisor(pool_size=0) as made:
        # what confines the first caller must not be what confines all that is made ahead
        confined(lambda: spawn(made, "first", Policy.preset("compute")).close())
        yield made
    assert not waiting() - before  # none outlives its supervisor


def waiting() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate() if thread.name == "pyisolate-standby-thread"}


def confined(call: Callable[[], object], *, privileged: bool = False) -> None:
    """Call from a thread that Landlock lets write no file; with no_new_privs, unless it is privileged."""

    def run() -> None:
        handled = landlock.Handled(landlock.AccessFs.WRITE_FILE, landlock.AccessNet(0), landlock.Scope(0))
        ruleset = landlock.create_ruleset(handled)
        if not privileged:
            process.set_no_new_privs()
        landlock.restrict_self(ruleset)
        os.close(ruleset)
        call()

    on_a_thread(run)


def on_a_thread(call: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    caller = threading.Thread(target=run)
    caller.start()
    caller.join()
    for error in errors:
        raise error


def spawn(supervisor: pyisolate.Supervisor, name: str, policy: Policy) -> pyisolate.SandboxThread:
    return supervisor.spawn(name, policy, isolation="thread", limits=WITHOUT_UNHELD)


def have_some_ready(supervisor: pyisolate.Supervisor, policy: Policy) -> None:
    standby = inside.runtime(supervisor).started.threads
    assert standby is not None
    for _ in range(3):
        spawn(supervisor, "earlier", policy).close()
    until(lambda: any(session.policy.name == policy.name for session in standby.sessions))


THREAD = "__import__('threading').get_ident()"


def test_one_that_waited_is_confined_as_its_policy_says_and_bears_its_own_name(
    supervisor: pyisolate.Supervisor,
) -> None:
    policy = with_ctypes().with_name("waits")
    have_some_ready(supervisor, policy)
    ready = waiting()
    with spawn(supervisor, "second", policy) as sandbox, spawn(supervisor, "other", policy) as other:
        threads = {sandbox.eval(THREAD), other.eval(THREAD)}
        assert len(threads) == 2
        assert threads & ready
        sandbox.exec(RAW_OPEN)
        assert sandbox.eval("raw('/etc/passwd')") == (-1, 13)
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec("open('/etc/passwd')")
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.sandbox == "second"
        assert caught.value.denial_event.sandbox_id == sandbox.id
        assert sandbox.exec("import ctypes; ctypes.CDLL(None).unshare(0x10000000)").value == -1
        assert "kernel.namespace" in [event.capability for event in sandbox.get_denial_events()]
        assert sandbox.eval("__name__") == "<second>"
        assert sandbox.enforcement.complete
        assert not other.get_denial_events()


def test_it_serves_no_other_policy_and_the_granted_file_is_the_one_of_now(
    supervisor: pyisolate.Supervisor, tmp_path: Path
) -> None:
    granted = tmp_path / "granted"
    granted.write_text("old")
    policy = with_ctypes().with_name("reads").allow_read(granted)
    have_some_ready(supervisor, policy)
    ready = waiting()
    with spawn(supervisor, "compute", with_ctypes().with_name("not reads")) as sandbox:
        assert sandbox.eval(THREAD) not in ready
        sandbox.exec(RAW_OPEN)
        assert sandbox.eval(f"raw({str(granted)!r})") == (-1, 13)
    with spawn(supervisor, "control", policy) as sandbox:
        sandbox.exec(RAW_OPEN)
        assert sandbox.eval(f"raw({str(granted)!r})")[0] == 0
    granted.rename(tmp_path / "kept")  # what the threads that wait were granted is another file now
    granted.write_text("new")
    ready = waiting()
    with spawn(supervisor, "after", policy) as sandbox:
        assert sandbox.eval(THREAD) not in ready
        assert sandbox.eval(f"open({str(granted)!r}).read()") == "new"
        sandbox.exec(RAW_OPEN)
        assert sandbox.eval(f"raw({str(tmp_path / 'kept')!r})") == (-1, 13)


@pytest.mark.parametrize("by", ["no_new_privs", "Landlock", "Landlock alone", "nothing"])
def test_a_caller_that_is_confined_itself_is_given_none(
    supervisor: pyisolate.Supervisor, tmp_path: Path, by: str
) -> None:
    require("root", by != "Landlock alone" or os.geteuid() == 0, "Landlock without no_new_privs takes CAP_SYS_ADMIN")
    granted = tmp_path / "granted"
    granted.touch()
    policy = with_ctypes().with_name(f"nested in {by}").allow_write(granted)
    have_some_ready(supervisor, policy)
    ready, given = waiting(), set[int | None]()

    def call() -> None:
        if by == "no_new_privs":
            process.set_no_new_privs()
        with spawn(supervisor, "nested", policy) as sandbox:
            given.update(ready & {sandbox.eval(THREAD)})
            if not by.startswith("Landlock"):
                sandbox.exec(f"open({str(granted)!r}, 'w').close()")
                return
            with pytest.raises(pyisolate.PolicyError, match="EACCES"):
                sandbox.exec(f"open({str(granted)!r}, 'w').close()")

    if by.startswith("Landlock"):
        confined(call, privileged=by == "Landlock alone")
    else:
        on_a_thread(call)
    assert bool(given) == (by == "nothing")


def test_what_cannot_be_confined_ahead_leaves_nothing_and_the_next_policy_is_served(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    start = ThreadSession.start

    def without_memory(session: ThreadSession, enforcement: Enforcement) -> None:
        start(session, enforcement)
        if threading.current_thread().name == "pyisolate-thread-maker":
            failing.set()
            raise MemoryError

    monkeypatch.setattr(ThreadSession, "start", without_memory)
    for _ in range(2):
        spawn(supervisor, "short", Policy.preset("compute").with_name("short of memory")).close()
    assert failing.wait(10)  # what it left would outlive the supervisor
    monkeypatch.undo()
    have_some_ready(supervisor, Policy.preset("compute").with_name("after it"))


def test_few_wait(supervisor: pyisolate.Supervisor) -> None:
    standby = inside.runtime(supervisor).started.threads
    assert standby is not None
    for _ in range(8):
        spawn(supervisor, "usual", Policy.preset("compute").with_name("usual")).close()
    for number in (*range(10), *range(10)):
        spawn(supervisor, "one of many", Policy.preset("compute").with_name(f"policy {number}")).close()

    def by_policy() -> Counter[str]:
        return Counter(session.policy.name for session in standby.sessions)

    until(lambda: len(by_policy()) == 8 and by_policy()["usual"] >= 2)
    for _ in range(100):  # and no more come
        found = by_policy()
        assert len(found) <= 8
        assert found.pop("usual") <= 4
        assert set(found.values()) == {1}
        time.sleep(0.002)
    assert 9 <= supervisor.diagnostics().standby_threads <= 11
    assert not supervisor.sandboxes
