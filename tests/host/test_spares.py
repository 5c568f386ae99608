"""Spares: cells confined ahead for the policy that is asked for again and again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

import pyisolate
from pyisolate.spares import Spares

COMPUTE = pyisolate.Policy.preset("compute")
READS = "open('/etc/passwd').read(4)"


@pytest.fixture
def own() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=3) as supervisor:
        yield supervisor


def spares_of(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy = COMPUTE) -> Spares:
    with supervisor.tables.hold(policy) as prepared:
        return supervisor._spares[supervisor.plan.is_native(prepared)]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def make_spares(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy) -> list[int]:
    """Ask for a policy twice and wait until all spares are there; return their cells."""
    for _ in range(2):
        supervisor.spawn("first", policy).close()
    until(lambda: len(spares_of(supervisor, policy).sandboxes) == 2)
    return [spare.pid for spare in spares_of(supervisor, policy).sandboxes]


def test_a_spare_becomes_the_sandbox_that_was_asked_for(own: pyisolate.Supervisor) -> None:
    pids = make_spares(own, COMPUTE)
    assert [one.name for one in own.sandboxes] == []
    outputs: list[str] = []
    with own.spawn(
        "asked-for", COMPUTE, env={"COLOUR": "blue"}, actor={"kind": "job", "id": "7"}, on_stdout=outputs.append
    ) as sandbox:
        assert sandbox.pid in pids
        assert [one.name for one in own.sandboxes] == ["asked-for"]
        assert sandbox.exec("import os; print('hello'); os.environ['COLOUR']").value == "blue"
        assert outputs == ["hello\n"]
        assert sandbox.stats.uptime_s < 5
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(READS)
        event = caught.value.denial_event
        assert event is not None
        assert (event.sandbox, event.sandbox_id) == ("asked-for", sandbox.id)
        assert event.actor is not None
        assert (event.actor.kind, event.actor.id) == ("job", "7")
        assert sandbox.get_denial_events() == [event]
        assert sandbox.enforcement.missing == ()
        with open(f"/proc/{sandbox.pid}/comm") as file:
            assert file.read() == "asked-for\n"


def test_native_code_in_a_spare_is_refused_and_recorded(own: pyisolate.Supervisor) -> None:
    raw = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); [libc.unshare(0x20000), ctypes.get_errno()]"
    policy = COMPUTE.allow_native("*")
    pids = make_spares(own, policy)
    with own.spawn("raw", policy) as sandbox:
        assert sandbox.pid in pids
        assert sandbox.exec(raw).value == [-1, 1]
        event = next(one for one in sandbox.get_denial_events() if one.capability.value == "kernel.namespace")
        assert (event.sandbox, event.kernel_decision.value) == ("raw", "deny")


def test_another_policy_never_gets_one(own: pyisolate.Supervisor) -> None:
    wide = COMPUTE.allow_read("/etc/passwd")
    pids = make_spares(own, wide)
    with own.spawn("narrow", COMPUTE) as narrow, own.spawn("wide", wide) as granted:
        assert narrow.pid not in pids
        assert granted.pid in pids
        assert granted.eval(READS) == "root"
        with pytest.raises(pyisolate.PolicyError):
            narrow.eval(READS)


def test_a_new_favourite_ends_the_spares_of_the_old(own: pyisolate.Supervisor) -> None:
    pids = make_spares(own, COMPUTE)
    other = COMPUTE.with_limits(output="2MiB")
    for _ in range(9):
        own.spawn("other", other).close()
    until(lambda: len(spares_of(own).sandboxes) == 2)
    assert not {spare.pid for spare in spares_of(own).sandboxes} & set(pids)
    until(lambda: not any(os.path.exists(f"/proc/{pid}/root") for pid in pids))
    with own.spawn("other", other) as sandbox:
        assert sandbox.limits.output_bytes == 2 << 20


def test_limits_hold_in_a_spare(own: pyisolate.Supervisor) -> None:
    policy = COMPUTE.with_limits(wall="20s", output="1kB")
    pids = make_spares(own, policy)
    with own.spawn("flood", policy) as sandbox:
        assert sandbox.pid in pids
        with pytest.raises(pyisolate.OutputExceeded):
            sandbox.exec("print('x' * 5000, flush=True)\nwhile True: pass")


def test_a_spare_that_dies_is_replaced_and_is_no_exit(own: pyisolate.Supervisor) -> None:
    pids = make_spares(own, COMPUTE)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len({spare.pid for spare in spares_of(own).sandboxes} - set(pids)) == 2)
    with own.spawn("next", COMPUTE) as sandbox:
        assert sandbox.pid not in pids
        assert sandbox.eval("1 + 1") == 2


def test_a_zygote_that_dies_takes_its_spares(own: pyisolate.Supervisor) -> None:
    pids = make_spares(own, COMPUTE)
    assert own._pool is not None
    os.kill(own._pool.zygote_pid or 0, signal.SIGKILL)
    until(lambda: not {spare.pid for spare in spares_of(own).sandboxes} & set(pids))
    with own.spawn("next", COMPUTE) as sandbox:
        assert sandbox.eval("1 + 1") == 2


def test_a_reload_reaches_one(own: pyisolate.Supervisor) -> None:
    one, two = COMPUTE.allow_connect("127.0.0.1:1"), COMPUTE.allow_connect("127.0.0.1:2")
    pids = make_spares(own, one)
    connect = (
        "import socket\ntry: socket.create_connection(('127.0.0.1', 1), 5)\nexcept ConnectionRefusedError: 'asked'"
    )
    with own.spawn("reloaded", one) as sandbox:
        assert sandbox.pid in pids
        sandbox.exec(connect)
        sandbox.reload_policy(two)
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(connect)
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.policy_generation == 2


def test_a_working_directory_of_its_own_means_no_spare(own: pyisolate.Supervisor) -> None:
    policy = COMPUTE.allow_read("/usr/share")
    pids = make_spares(own, policy)
    with own.spawn("elsewhere", policy, cwd="/usr/share") as sandbox:
        assert sandbox.pid not in pids
        assert sandbox.eval("__import__('os').getcwd()") == "/usr/share"


def test_nobody_gets_a_spare_whose_listener_has_ended(own: pyisolate.Supervisor) -> None:
    make_spares(own, COMPUTE)
    listener = own.plan.listener
    assert listener is not None
    listener.close()
    with pytest.raises(pyisolate.EnforcementError, match="listener has ended"):
        own.spawn("undecided", COMPUTE)
