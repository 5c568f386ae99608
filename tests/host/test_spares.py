"""Spares: cells confined ahead for the policy that is asked for again and again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

import pyisolate
from pyisolate.supervisor.standby import Standby
from tests import inside
from tests.waiting import until

COMPUTE = pyisolate.Policy.preset("compute")
READS = "open('/etc/passwd').read(4)"


@pytest.fixture
def own() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=3) as supervisor:
        yield supervisor


def spares_of(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy = COMPUTE) -> Standby:
    with inside.runtime(supervisor).tables.hold(policy) as prepared:
        return inside.runtime(supervisor).started.standby[inside.plan(supervisor).is_native(prepared)]


def make_spares(supervisor: pyisolate.Supervisor, policy: pyisolate.Policy) -> list[int]:
    """Ask for a policy twice and wait until all spares are there; return their cells."""
    for _ in range(2):
        supervisor.spawn("first", policy).close()
    until(lambda: len(spares_of(supervisor, policy).cells) == 2)
    return [spare.pid for spare in spares_of(supervisor, policy).cells]


def standing_by(supervisor: pyisolate.Supervisor) -> Counter[str]:
    """Count the cells that stand by, by their policy."""
    return Counter(spare.policy.version for spare in spares_of(supervisor).cells)


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
        assert "".join(outputs) == "hello\n", "in pieces, as they were written"
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


def test_a_new_favourite_ends_the_spares_of_the_old_but_one(own: pyisolate.Supervisor) -> None:
    pids = make_spares(own, COMPUTE)
    other = COMPUTE.with_limits(output="2MiB")
    for _ in range(9):
        own.spawn("other", other).close()
    until(lambda: standing_by(own) == {COMPUTE.version: 1, other.version: 2})
    until(lambda: len([pid for pid in pids if os.path.exists(f"/proc/{pid}/root")]) == 1)
    with own.spawn("other", other) as sandbox:
        assert sandbox.limits.output_bytes == 2 << 20


@pytest.mark.once
def test_policies_in_turn_find_a_cell_each(own: pyisolate.Supervisor) -> None:
    policies = [COMPUTE.with_limits(output=f"{size}kB") for size in range(101, 107)]
    for _ in range(2):
        for policy in policies:
            own.spawn("turn", policy).close()
    until(lambda: standing_by(own) == {policy.version: 1 for policy in policies})
    # what is kept beside the pool's own cells is counted, and as many policies as that are all
    assert own.diagnostics().pools["own_network"].for_frequent == len(policies)
    for _ in range(2):
        own.spawn("seventh", COMPUTE).close()
    assert COMPUTE.version not in standing_by(own)
    until(lambda: len(spares_of(own).cells) == len(policies))
    pids = {spare.pid for spare in spares_of(own).cells}
    for policy in policies:
        with own.spawn("turn", policy) as sandbox:
            assert sandbox.pid in pids
            assert sandbox.limits == policy.limits


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
    until(lambda: len({spare.pid for spare in spares_of(own).cells} - set(pids)) == 2)
    with own.spawn("next", COMPUTE) as sandbox:
        assert sandbox.pid not in pids
        assert sandbox.eval("1 + 1") == 2


def test_a_zygote_that_dies_takes_its_spares(own: pyisolate.Supervisor) -> None:
    pids = make_spares(own, COMPUTE)
    assert inside.pool(own) is not None
    os.kill(own.diagnostics().zygote_pid or 0, signal.SIGKILL)
    until(lambda: not {spare.pid for spare in spares_of(own).cells} & set(pids))
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


def test_those_that_stand_by_are_not_where_others_wanted_to_be(own: pyisolate.Supervisor) -> None:
    policy = COMPUTE.allow_read("/usr/share")
    for _ in range(2):
        own.spawn("elsewhere", policy, cwd="/usr/share").close()
    until(lambda: len(spares_of(own, policy).cells) == 2)
    with own.spawn("ordinary", policy) as sandbox:
        assert sandbox.eval("__import__('os').getcwd()") != "/usr/share"


def test_nobody_gets_a_spare_whose_listener_has_ended(own: pyisolate.Supervisor) -> None:
    make_spares(own, COMPUTE)
    listener = inside.plan(own).listener
    assert listener is not None
    listener.close()
    with pytest.raises(pyisolate.EnforcementError, match="listener has ended"):
        own.spawn("undecided", COMPUTE)


def switches(pid: int) -> int:
    """How often a process has slept and been woken (proc(5))."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


def test_spawn_wakes_no_cell_and_forks_none_while_half_of_them_are_there() -> None:
    with pyisolate.Supervisor(pool_size=5) as own:
        pool = inside.runtime(own).started.pools()[0]
        stock = pool.stock
        for _ in range(2):
            own.spawn("first", COMPUTE).close()
        until(lambda: len(spares_of(own).cells) == 4 and stock.counts() == (5, 0) and own.diagnostics().ending == 0)
        everybody = [*(spare.pid for spare in spares_of(own).cells), pool.zygote_pid or 0]
        time.sleep(0.05)  # all are asleep
        before = {pid: switches(pid) for pid in everybody}
        with own.spawn("first", COMPUTE, env={"COLOUR": "green"}) as sandbox:
            time.sleep(0.05)  # what had been woken by now would have been counted
            assert {pid: switches(pid) for pid in everybody} == before
            assert sandbox.pid in everybody
            assert sandbox.exec("__import__('os').environ['COLOUR']").value == "green"
            until(lambda: switches(sandbox.pid) > before[sandbox.pid])  # the control: its first request wakes it
            assert switches(pool.zygote_pid or 0) == before[pool.zygote_pid or 0]
        until(lambda: len(spares_of(own).cells) == 4 and stock.counts() == (5, 0))  # its end replaces it
        until(lambda: switches(pool.zygote_pid or 0) > before[pool.zygote_pid or 0])


def test_sandboxes_that_stay_do_not_empty_the_pool(own: pyisolate.Supervisor) -> None:
    make_spares(own, COMPUTE)
    kept = [own.spawn("stays", COMPUTE) for _ in range(5)]
    until(lambda: len(spares_of(own).cells) >= 1)
    for sandbox in kept:
        assert sandbox.exec("1").value == 1


@pytest.mark.once
def test_what_a_spare_rehearsed_leaves_no_trace(own: pyisolate.Supervisor) -> None:
    looks = """
import builtins, linecache, os, sys
{
    "value": hasattr(builtins, "_"),
    "environment": dict(os.environ),
    "argv": sys.argv,
    "names": sorted(name for name in globals() if not name.startswith("__")),
    "sources": [name for name in linecache.cache if name.startswith("<") and "pyisolate" not in name],
}
"""
    pids = make_spares(own, COMPUTE)
    with own.spawn("spare", COMPUTE) as spare, own.spawn("spare", COMPUTE, cwd="/") as fresh:
        assert spare.pid in pids
        assert fresh.pid not in pids
        found = [sandbox.exec(looks).value for sandbox in (spare, fresh)]
        assert found[0] == found[1]
        assert not found[0]["value"]
        assert spare.get_denial_events() == []
        assert spare.exec("_ == " + repr(found[0])).value is True  # the control


@pytest.mark.parametrize("first", ["reload", "post"])
def test_the_name_arrives_before_whatever_comes_first(own: pyisolate.Supervisor, first: str) -> None:
    pids = make_spares(own, COMPUTE)
    with own.spawn("named", COMPUTE, env={"COLOUR": "red"}) as sandbox:
        assert sandbox.pid in pids
        if first == "reload":
            sandbox.reload_policy(COMPUTE.with_name("other"))
        else:
            sandbox.post("hello")
        assert sandbox.exec("import os, sys; (os.environ['COLOUR'], sys.argv)").value == ("red", ["<named>"])
        if first == "post":
            assert sandbox.eval("recv(1)") == "hello"
