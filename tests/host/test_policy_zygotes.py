"""Policy zygotes: the usual policy's cells come from a zygote that has broker and hooks made; nothing else changes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pyisolate
from pyisolate.supervisor.policy_cache import PreparedPolicies
from tests import inside
from tests.waiting import until

COMPUTE = pyisolate.Policy.preset("compute")
#: a grant that the second policy lacks
WIDE, NARROW = COMPUTE.allow_read("/etc/passwd"), COMPUTE.with_limits(output="2MiB")
READS = "open('/etc/passwd').read(4)"


@pytest.fixture
def own() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=2) as supervisor:
        yield supervisor


def branches(supervisor: pyisolate.Supervisor) -> tuple[int, ...]:
    return supervisor.diagnostics().pools["own_network"].policy_zygote_pids


def zygote_of(sandbox: pyisolate.Sandbox) -> int:
    """Return the process that forked a sandbox's cell."""
    return psutil.Process(inside.cell(sandbox).channel.init).ppid()


def branched(
    supervisor: pyisolate.Supervisor, policy: pyisolate.Policy, known: tuple[int, ...] = ()
) -> pyisolate.Sandbox:
    """Ask for a policy until a cell comes from a zygote of its own that is none of the `known`; return the sandbox."""
    for _ in range(100):
        sandbox = supervisor.spawn("usual", policy, env={"COLOUR": "blue"})
        if zygote_of(sandbox) in set(branches(supervisor)) - set(known):
            return sandbox
        sandbox.close()
        time.sleep(0.02)
    raise AssertionError("no cell came from a zygote of its policy")


def test_its_cells_are_under_their_policy(own: pyisolate.Supervisor) -> None:
    with branched(own, WIDE) as wide, own.spawn("narrow", NARROW) as narrow:
        assert psutil.Process(zygote_of(wide)).ppid() == zygote_of(narrow) == own.diagnostics().zygote_pid
        assert wide.enforcement.missing == ()
        assert wide.eval(READS) == "root"
        assert wide.eval("__import__('os').environ['COLOUR']") == "blue"
        with pytest.raises(pyisolate.PolicyError) as caught:
            wide.exec("open('/etc/shadow')")
        assert wide.get_denial_events() == [caught.value.denial_event]
        wide.reload_policy(WIDE.with_name("reloaded"))
        assert wide.eval(READS) == "root"
        for refused in (wide, narrow):
            with pytest.raises(pyisolate.PolicyError) as caught:
                refused.exec("open('/etc/shadow')")
            assert caught.value.denial_event is not None
            assert caught.value.denial_event.policy_generation == 1 + (refused is wide)


def test_its_cells_are_confined_as_any_other(own: pyisolate.Supervisor) -> None:
    """In one call of C, all that others do step by step; the kernel says that nothing is missing."""
    with (
        branched(own, WIDE) as wide,
        own.spawn("any", WIDE, cwd="/") as elsewhere,
        own.spawn("narrow", NARROW) as plain,
    ):
        assert set(wide.enforcement.capabilities) == set(plain.enforcement.capabilities)
        assert wide.enforcement.missing == elsewhere.enforcement.missing == ()
        assert kernel_view(wide.pid) == kernel_view(elsewhere.pid) == kernel_view(plain.pid)
        assert [one.eval("__import__('os').getcwd()") for one in (wide, elsewhere)] == ["/sandbox/workspace", "/"]
        assert elsewhere.eval(READS) == "root"


def kernel_view(pid: int) -> dict[str, object]:
    """Return how the kernel sees a confined process, but for its numbers."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn", "SigCgt")
    leader = status["NSsid"].split()[-1]
    kept = {name: status.get(name) for name in (*names, *(name for name in status if name.startswith("Cap")))}
    ends = sorted(Path(f"/proc/{pid}/fd/{one}").readlink().name.split(":")[0] for one in os.listdir(f"/proc/{pid}/fd"))
    leader = status["NSsid"].split()[-1]
    return {**kept, "leader": leader, "limits": Path(f"/proc/{pid}/limits").read_text(), "descriptors": ends}


def test_where_no_cell_stands_by_the_usual_policy_has_one_for_cells_on_demand() -> None:
    with pyisolate.Supervisor(pool_size=0) as own, branched(own, WIDE) as wide, own.spawn("any", WIDE) as other:
        assert [one.eval("__import__('sys').argv") for one in (wide, other)] == [["<usual>"], ["<any>"]]
        assert [one.eval("__import__('os').environ.get('COLOUR')") for one in (wide, other)] == ["blue", None]
        for sandbox in (wide, other):
            assert sandbox.enforcement.missing == ()
            assert sandbox.eval(READS) == "root"
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec("open('/etc/shadow')")
        with branched(own, NARROW, known=branches(own)) as narrow, pytest.raises(pyisolate.PolicyError):
            narrow.eval(READS)
        assert own.diagnostics().standby == 0


@pytest.mark.once
def test_a_pool_of_one_gives_its_warm_cell_first_and_then_cells_on_demand() -> None:
    with pyisolate.Supervisor(pool_size=1) as own, contextlib.ExitStack() as held:
        until(lambda: held.enter_context(own.spawn("usual", WIDE)) and branches(own))
        held.close()
        demanded = False
        for _ in range(40):
            until(lambda: own.diagnostics().pools["own_network"].warm == 1)
            with own.spawn("warm", WIDE) as warm, own.spawn("any", WIDE) as one, own.spawn("any", WIDE) as other:
                assert zygote_of(warm) == own.diagnostics().zygote_pid
                demanded = bool({zygote_of(one), zygote_of(other)} & set(branches(own)))
                if demanded:
                    break
        assert demanded


@pytest.mark.once
def test_a_shadow_policy_comes_with_its_own_tables(own: pyisolate.Supervisor) -> None:
    branched(own, WIDE).close()
    with own.spawn("watched", WIDE, shadow=COMPUTE) as sandbox:
        assert sandbox.eval(READS) == "root"
        assert [one.would_deny for one in sandbox.get_denial_events()] == [True]


def test_native_code_in_its_cells_is_refused_by_the_kernel(own: pyisolate.Supervisor) -> None:
    """The kernel's part is made at the hand-out from the supervisor's own tables, for a cell of any zygote."""
    policy = COMPUTE.allow_native("*")
    opens = "import ctypes; ctypes.CDLL(None).open(b'/etc/hostname', 0) >= 0"
    with branched(own, policy) as refused, own.spawn("granted", policy.allow_read("/etc/hostname")) as granted:
        assert refused.exec(opens).value is False
        assert granted.exec(opens).value is True


@pytest.mark.once
def test_policies_in_turn_have_one_each_until_others_are_asked_for_more_often(own: pyisolate.Supervisor) -> None:
    policies = [
        COMPUTE.with_limits(output=f"{size}kB") for size in range(101, 105)
    ]  # as many as this pool has room for
    with branched(own, WIDE) as stays:
        old = zygote_of(stays)
        for number, policy in enumerate(policies, 2):
            sandbox = branched(own, policy, known=branches(own))
            until(lambda number=number: len(branches(own)) == number)  # type: ignore[misc]
            sandbox.close()
        # four of them are kept; that of the first policy forks no more, and ends with its last sandbox
        assert old in branches(own)
        assert stays.eval(READS) == "root"
        stays.close()
        until(lambda: old not in branches(own))
        until(lambda: not psutil.pid_exists(old))


def test_grants_that_mean_another_place_retire_it(own: pyisolate.Supervisor) -> None:
    """Its cells would find the old place granted."""
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        place.chmod(0o755)
        (place / "work").mkdir(mode=0o755)
        (place / "work/f").write_text("old")
        policy = COMPUTE.allow_read(str(place / "work"))
        read = f"open({str(place / 'work/f')!r}).read()"
        with branched(own, policy) as before:
            old = zygote_of(before)
            assert before.eval(read) == "old"
        (place / "work").rename(place / "away")
        (place / "work").mkdir(mode=0o755)
        (place / "work/f").write_text("new")
        with own.spawn("after", policy) as after:
            assert after.eval(read) == "new"
        until(lambda: old not in branches(own))
    finally:
        shutil.rmtree(place)


def test_a_policy_that_is_forgotten_while_no_cell_stands_by_loses_its_own(
    own: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby = next(iter(inside.runtime(own).started.standby.values()))
    with branched(own, WIDE):
        until(lambda: len(standby.cells) == 1)
        monkeypatch.setattr(PreparedPolicies, "keep", lambda *_: contextlib.nullcontext(False))  # its tables are closed
        with own.spawn("takes it", WIDE):
            until(lambda: not inside.pool(own).stock.policies.active)


def test_one_that_dies_takes_its_sandboxes_and_no_others(own: pyisolate.Supervisor) -> None:
    with own.spawn("other", NARROW) as other, branched(own, WIDE) as sandbox:
        zygote = zygote_of(sandbox)
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(pyisolate.SandboxDied):
            sandbox.exec("import time; time.sleep(20)")
        assert other.eval("1 + 1") == 2
        branched(own, WIDE, known=(zygote,)).close()  # it is made again


@pytest.mark.once
def test_the_death_of_the_zygote_takes_it_along(own: pyisolate.Supervisor) -> None:
    with branched(own, WIDE) as sandbox:
        zygote = zygote_of(sandbox)
        killed, warm = own.diagnostics().zygote_pid, inside.warm_cells(own)
        os.kill(killed or 0, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(zygote) or psutil.Process(zygote).status() == psutil.STATUS_ZOMBIE)
        # until the host has seen both deaths, a spawn may be given a cell that has died with the zygote
        until(lambda: branches(own) == () and own.diagnostics().zygote_pid != killed)
        until(lambda: not any(one in inside.warm_cells(own) for one in warm))
    with own.spawn("next", WIDE) as sandbox:
        assert sandbox.eval(READS) == "root"


def test_where_each_cell_is_a_user_of_its_own_one_zygote_gives_them_out() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has users to give")
    with pyisolate.Supervisor(pool_size=2, cell_uids=range(300000, 300016)) as own:
        for _ in range(8):
            own.spawn("usual", WIDE).close()
            time.sleep(0.01)
        assert branches(own) == ()


def own_kilobytes(pid: int) -> int:
    """Return what a process shares with nobody, of what it has written."""
    rollup = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(rollup["Private_Dirty"].split()[0])


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other interpreters write other pages")
def test_what_its_cells_write_is_written_and_in_place_before(own: pyisolate.Supervisor) -> None:
    """A cell has 1.9 MB of its own after a request, where it had 2.35 before its zygote went through what it does and
    filled its holes; one of no policy's own has 2.75, and had 3.3 before the latter."""
    least = [sys.maxsize] * 2
    for _ in range(4):  # one that no order foresaw writes more
        with branched(own, WIDE) as wide, own.spawn("narrow", NARROW) as plain:
            assert [one.exec("1").value for one in (wide, plain)] == [1, 1]
            try:
                least = list(map(min, least, (own_kilobytes(one.pid) for one in (wide, plain))))
            except PermissionError:
                pytest.skip("the memory of processes of other users cannot be read here")
    assert least[0] < 2150
    assert least[1] < 3000
