"""A cell's init: process 1 of its pid namespace, the guest's parent. It reaps, and hands on signals and status."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.cell.zygote_messages import Signal
from pyisolate.native import cell_start
from tests import leaks, zygote
from tests.waiting import until

ENDS = {
    "SIGTERM": ("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", signal.SIGTERM),
    "SIGKILL": ("import os; os.kill(os.getpid(), 9)", signal.SIGKILL),
    "alarm": ("import signal, time; signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(5)", signal.SIGALRM),
    "abort": ("import os; os.abort()", signal.SIGABRT),
    "crash": ("import ctypes; ctypes.string_at(0)", signal.SIGSEGV),
    "raise_signal": ("import signal; signal.raise_signal(signal.SIGHUP)", signal.SIGHUP),
    "usr1": ("import os; os.kill(os.getpid(), 10)", signal.SIGUSR1),
}

ORPHANS = """
import os, time
for _ in range({count}):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            time.sleep(0.02)
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(0.04)
"done"
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=2) as own:
        yield own


def forking() -> Policy:
    return Policy.preset("compute").allow_fork().allow_import("ctypes").allow_native("ctypes")


@pytest.mark.parametrize("how", ENDS)
def test_how_a_guest_ends_itself_is_told_truly(supervisor: pyisolate.Supervisor, how: str) -> None:
    source, number = ENDS[how]
    with supervisor.spawn("ends", forking()) as sandbox:
        with pytest.raises(pyisolate.SandboxDied) as caught:
            sandbox.exec(source)
        assert (caught.value.signal, caught.value.exit_status) == (number, None)
        assert signal.Signals(number).name in str(caught.value)


@pytest.mark.parametrize("status", [0, 1, 70, 137, 255])
def test_an_exit_status_is_told_truly(supervisor: pyisolate.Supervisor, status: int) -> None:
    with supervisor.spawn("exits") as sandbox:
        with pytest.raises(pyisolate.SandboxDied) as caught:
            sandbox.exec(f"import os; os._exit({status})")
        assert (caught.value.signal, caught.value.exit_status) == (None, status)


def test_a_handler_of_the_guests_runs(supervisor: pyisolate.Supervisor) -> None:
    source = """
import os, signal
seen = []
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
os.kill(os.getpid(), signal.SIGTERM)
seen
"""
    with supervisor.spawn("handles") as sandbox:
        assert sandbox.exec(source).value == [signal.SIGTERM]


@pytest.mark.slow
def test_orphans_are_reaped_and_no_longer_count(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("orphans", forking().with_limits(processes=8)) as sandbox:
        assert sandbox.exec(ORPHANS.format(count=20)).value == "done"
        init = psutil.Process(sandbox.init_pid)
        until(lambda: [process.pid for process in init.children(recursive=True)] == [sandbox.pid])


@pytest.mark.once
def test_a_shells_pipeline_starts_in_each_fresh_sandbox(supervisor: pyisolate.Supervisor) -> None:
    """The shell forks twice at once: no fork is refused that no limit refuses."""
    policy = Policy.preset("shell").with_workspace(None)
    for number in range(6):
        with supervisor.spawn(f"fresh{number}", policy) as sandbox:
            assert sandbox.run(["sh", "-c", "echo hi | tr a b"]).stdout == b"hi\n"
            assert sandbox.get_denial_events() == []


def test_living_orphans_count_and_end_with_the_sandbox(supervisor: pyisolate.Supervisor) -> None:
    source = "import os, time\nif os.fork() == 0:\n    os.fork() or time.sleep(60)\n    os._exit(0)\nos.wait()"
    sandbox = supervisor.spawn("left", forking())
    sandbox.exec(source)
    below = psutil.Process(sandbox.init_pid).children(recursive=True)
    assert len(below) == 2
    assert sandbox.stats.processes == 2
    sandbox.close()
    assert not psutil.wait_procs(below, timeout=5)[1]


def test_everything_ends_with_a_guest_that_dies(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("dies", forking()) as sandbox:
        sandbox.exec("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)")
        init = psutil.Process(sandbox.init_pid)
        below = init.children(recursive=True)
        assert len(below) == 2
        os.kill(sandbox.pid, signal.SIGKILL)
        assert not psutil.wait_procs([init, *below], timeout=5)[1]


def test_the_guest_cannot_end_or_stop_its_init(supervisor: pyisolate.Supervisor) -> None:
    source = """
import os, signal
answers = []
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCHLD):
    try:
        os.kill(1, number)
        answers.append(0)
    except PermissionError as error:
        answers.append(error.errno)
answers
"""
    with supervisor.spawn("attacks", forking()) as sandbox:
        sandbox.exec(source)
        assert sandbox.eval("1 + 1") == 2
        assert psutil.Process(sandbox.init_pid).status() == psutil.STATUS_SLEEPING


def test_the_init_holds_nothing(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("bare") as sandbox:
        sandbox.eval("1")
        folder = Path(f"/proc/{sandbox.init_pid}")
        status = dict(
            line.split(":\t", 1) for line in folder.joinpath("status").read_text().splitlines() if ":\t" in line
        )
        assert status["Name"] == "pyisolate-init"
        kept = 1 << 5  # CAP_KILL, in the cell's user namespace: the guest may be another user
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == kept
        assert (folder / "ns" / "user").stat().st_ino == Path(f"/proc/{sandbox.pid}/ns/user").stat().st_ino
        assert status["NoNewPrivs"] == "1"
        assert os.listdir(folder / "fd") == []
        assert sandbox.eval("__import__('os').getppid()") == 1


def test_an_interrupt_reaches_the_guest_through_its_init(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("interrupted") as sandbox:
        sandbox.exec("import signal\nseen = []\nsignal.signal(signal.SIGINT, lambda n, f: seen.append(n))")
        sandbox.interrupt()
        deadline = time.monotonic() + 5
        while not sandbox.eval("seen") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sandbox.eval("seen") == [signal.SIGINT]


def test_inits_are_reaped_and_their_pages_used_again(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("first") as sandbox:
        zygote = psutil.Process(sandbox.init_pid).parent()
    assert zygote is not None
    before = len(zygote.memory_maps(grouped=False))
    for _ in range(30):
        supervisor.spawn("again").close()
    until(lambda: only_what_is_known(supervisor))
    assert len(zygote.memory_maps(grouped=False)) <= before + 4


def only_what_is_known(supervisor: pyisolate.Supervisor) -> bool:
    """Tell whether the zygotes have no other children than its cells, inits made ahead, and one another."""
    below = [leaks.below_zygote(pid) for pid in zygotes_of(supervisor)]
    cells = sum(len(one.cells) for one in below)
    return cells == supervisor.diagnostics().channels and all(len(one.ahead) < 2 and not one.others for one in below)


def be_zygote(control: int) -> None:
    """Be a zygote whose cells are in no pid namespace of their own: each starts six processes that outlive it."""
    number = os.open(os.devnull, os.O_RDWR)
    start = zygote.start_of(number, cell_start.Frames(b"report", b"", b""))

    def be_cell(_came: cell_start.Came) -> None:
        for _ in range(3):
            if os.fork() == 0:
                if os.fork() == 0:
                    os.setsid()
                os.write(1, b"x")
                time.sleep(60)
        channel = socket.socket(fileno=number)
        channel.recv(1)
        os.kill(os.getpid(), signal.SIGUSR2)

    zygote.serve(control, start, be_cell)


@pytest.mark.once
@pytest.mark.parametrize("how", ["killed by itself", "signalled through its init"])
def test_without_a_pid_namespace_the_init_ends_what_is_below(how: str) -> None:
    with zygote.Zygote("tests.host.test_cell_init") as own, contextlib.closing(own.fork()) as cell:
        assert cell.channel.recv(64) == b"report"
        said = b""
        while len(said) < 6:
            said += os.read(cell.out, 6)
        below = psutil.Process(cell.init).children(recursive=True)
        assert len(below) == 7
        if how == "killed by itself":
            cell.channel.sendall(b"x")
        else:
            own.order(Signal(pid=cell.guest, number=signal.SIGUSR2))
        exited = own.exited()
        assert (exited.pid, os.WTERMSIG(exited.status)) == (cell.guest, signal.SIGUSR2)
        assert exited.max_rss_bytes > 1 << 20
        assert [one.pid for one in below if one.is_running()] == []


@pytest.mark.once
def test_a_zygote_writes_few_pages_for_each_cell() -> None:
    """Each fork shares them all again, and who writes one copies it."""
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        for _ in range(8):
            supervisor.spawn("warm").close()
        zygotes = zygotes_of(supervisor)
        before = sum(map(page_faults, zygotes))
        for _ in range(8):
            supervisor.spawn("counted").close()
        assert zygotes_of(supervisor) == zygotes
        assert (sum(map(page_faults, zygotes)) - before) / 8 < 80


@pytest.mark.once
@pytest.mark.slow
def test_an_init_is_made_ahead_and_replaced_when_it_is_killed() -> None:
    with pyisolate.Supervisor(pool_size=0) as supervisor, supervisor.spawn("first") as first:
        (zygote,) = zygotes_of(supervisor)
        ahead = made_ahead(zygote)
        with supervisor.spawn("taken") as taken:
            assert taken.init_pid == ahead.pid
            killed = made_ahead(zygote)
            killed.kill()
            killed.wait(10)
            with supervisor.spawn("another") as another:
                assert another.init_pid not in (ahead.pid, killed.pid)
                last = made_ahead(zygote)
                assert [one.eval("1") for one in (first, taken, another)] == [1, 1, 1]
    last.wait(10)


def made_ahead(zygote: int) -> psutil.Process:
    """Return the init that waits for its guest, once there is one."""
    until(lambda: leaks.below_zygote(zygote).ahead)
    (found,) = leaks.below_zygote(zygote).ahead
    return psutil.Process(found)


def zygotes_of(supervisor: pyisolate.Supervisor) -> list[int]:
    pool = supervisor.diagnostics().pools["own_network"]
    return [pid for pid in (pool.zygote_pid, *pool.policy_zygote_pids) if pid is not None]


def page_faults(pid: int) -> int:
    """Return how many pages a process has met that were not its own, or not mapped (proc(5), minflt)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


if __name__ == "__main__":
    be_zygote(int(sys.argv[1]))
