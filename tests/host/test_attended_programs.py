"""Threads of the host that attend to programs of `popen`: no guest keeps one past its time, or for nothing."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import subprocess
import threading
import time
from typing import Any

import pytest

import pyisolate

pytestmark = [pytest.mark.usefixtures("kept_supervisor"), pytest.mark.once]

POLICY = pyisolate.Policy.preset("compute")
for _name in ("bash", "sleep", "yes"):
    POLICY = POLICY.allow_exec(shutil.which(_name) or "")
#: a program that ends and leaves another one, which holds its output
LEAVES = ["bash", "-c", "echo first; sleep 60 & exit 3"]


class _Slow(io.BytesIO):
    """A file that takes its time: there is always more to read for it."""

    def write(self, data: Any) -> int:
        time.sleep(0.01)
        return len(data)


def test_output_without_end_does_not_put_off_the_end(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("floods", POLICY.with_limits(wall="300ms", output="1GiB")) as sandbox:
        process = sandbox.popen(["yes"], stdout=_Slow())
        with pytest.raises(pyisolate.TimeoutError, match="'yes' was killed after"):
            process.wait(5)
        assert [event.capability.value for event in process.denials] == ["limit.wall"]
        assert sandbox.eval("1") == 1


class _Gated(io.BytesIO):
    """A file whose each piece waits until it may be written."""

    def __init__(self) -> None:
        self.comes, self.may = threading.Semaphore(0), threading.Semaphore(0)

    def write(self, data: Any) -> int:
        self.comes.release()
        self.may.acquire(timeout=10)
        return len(data)


#: in a guest, the number and the inode of the pipe that it reports by
REPORTS = """
import fcntl, os, stat
def reports():
    pipes = [number for number in range(3, 64) if os.path.exists(number) and stat.S_ISFIFO(os.fstat(number).st_mode)]
    return {number for number in pipes if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY}
before = reports()
"""


def _report_pipe(sandbox: pyisolate.Sandbox) -> tuple[int, int]:
    """Return the number and the inode of the guest's end."""
    [(number, inode)] = sandbox.eval("[(one, os.fstat(one).st_ino) for one in reports() - before]")
    return number, inode


def _with_inode(inode: int) -> list[int]:
    """Return the descriptors of this process that have it."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing
            if os.fstat(number).st_ino == inode:
                found.append(number)
    return found


def test_a_report_that_is_taken_back_stops_nobody(supervisor: pyisolate.Supervisor) -> None:
    """As its guest takes it, where it is of the same user and may open `/proc/self/fd`."""
    output = _Gated()
    with supervisor.spawn("takes", POLICY.with_limits(output="1GiB")) as sandbox:
        sandbox.exec(REPORTS)
        process = sandbox.popen(["yes"], stdout=output)
        assert output.comes.acquire(timeout=5)
        number, inode = _report_pipe(sandbox)
        [ours] = _with_inode(inode)
        taker = os.open(f"/proc/self/fd/{ours}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            sandbox.eval(f"os.write({number}, bytes(2))")
            output.may.release()
            assert output.comes.acquire(timeout=5)  # of a look at the pipes that saw the report, too
            assert os.read(taker, 2) == bytes(2)
        finally:
            os.close(taker)
        output.may.release()
        assert output.comes.acquire(timeout=2)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        output.may.release(1 << 20)
        process.kill()
        assert process.wait(5) == -9


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_reports_are_closed_at_the_end_though_output_is_held(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("keeps", POLICY) as sandbox:
        sandbox.exec(REPORTS)
        held = sandbox.popen(["bash", "-c", "read; sleep 60 & exit 3"], stdin=subprocess.PIPE)
        _number, inode = _report_pipe(sandbox)
        assert len(_with_inode(inode)) == 1
        assert held.stdin is not None
        held.stdin.write(b"\n")
        held.stdin.close()
        assert held.wait(5) == 3
        assert _with_inode(inode) == []
        with pytest.raises(subprocess.TimeoutExpired):
            held.communicate(timeout=0.01)
        with pytest.raises(ValueError, match="communicate: stdin is closed"):
            held.communicate(b"more")


def test_all_that_the_thread_does_is_charged(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("drips", POLICY) as sandbox:
        before = threading.enumerate()  # another test's may be about to end
        process = sandbox.popen(["bash", "-c", "while :; do echo; done"])
        assert process.stdout is not None
        process.stdout.readline()
        [thread] = [one for one in threading.enumerate() if one.name == "pyisolate-program" and one not in before]
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        used, charged = time.clock_gettime(clock), sandbox.stats.host_cpu_s
        until = time.monotonic() + 20
        while (more := time.clock_gettime(clock) - used) < 0.01:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert sandbox.stats.host_cpu_s - charged > 0.9 * more
        process.kill()


def _error_beside_programs(sandbox: pyisolate.Sandbox, held: pyisolate.GuestProcess) -> tuple[BaseException, int]:
    """Return what `communicate` raises while programs run, and how many of these were killed."""
    killed = 0
    for _ in range(30):
        try:  # while one runs, the watchdog ends nothing that others left
            sandbox.popen(["sleep", "0.1"]).wait(5)
        except pyisolate.TimeoutError:
            killed += 1
        try:
            held.communicate(timeout=0.001)
        except subprocess.TimeoutExpired:
            continue
        except pyisolate.TimeoutError as error:
            return error, killed
        break
    raise AssertionError("its output was taken on, or was ended by others")


def test_an_ended_program_is_attended_to_no_longer_than_one_may_run(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyisolate.sandbox.running._KILL_GRACE_S", 0.1)
    with supervisor.spawn("holds", POLICY.with_limits(wall="500ms")) as sandbox:
        held = sandbox.popen(LEAVES, text=True)
        assert held.wait(5) == 3
        error, killed = _error_beside_programs(sandbox, held)
        assert "output of what 'bash' left running was closed" in str(error)
        limits = [event for event in sandbox.get_denial_events() if event.capability.value == "limit.wall"]
        assert limits[killed:] == [getattr(error, "denial_event", None)]
        assert held.stdout is not None
        assert (held.returncode, held.stdout.read()) == (3, "first\n")


def test_programs_take_no_threads_from_functions_and_other_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyisolate.sandbox.aio._MOST", 1)
    late = POLICY.with_limits(wall="300ms")
    with (
        pyisolate.Supervisor(pool_size=0) as supervisor,
        supervisor.spawn("a", POLICY) as greedy,
        supervisor.spawn("b", late, functions={"one": lambda: 1}) as other,
    ):
        assert [greedy.popen(LEAVES).wait(5) for _ in range(2)] == [3, 3]
        with pytest.raises(pyisolate.TimeoutError, match="'sleep' was killed after"):
            other.popen(["sleep", "60"]).wait(5)
        assert other.eval("one()", timeout=5) == 1


def test_a_program_that_no_thread_attends_to_is_an_error_and_killed(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_call: object) -> None:
        raise RuntimeError("can't start new thread")

    with supervisor.spawn("short", POLICY) as sandbox:
        with monkeypatch.context() as short:
            short.setattr("pyisolate.supervisor.runtime.Runtime.start_thread", no_thread)
            with pytest.raises(pyisolate.SandboxError, match=r"no thread of this process can attend to 'sleep'.*Hint"):
                sandbox.popen(["sleep", "60"])
        deadline = time.monotonic() + 5
        while sandbox.stats.processes not in (None, 1) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sandbox.stats.processes in (None, 1)  # None: no control group counts them
        assert sandbox.popen(["sleep", "0"]).wait(5) == 0  # the control


@pytest.mark.parametrize(
    ("name", "value", "cause", "hint"),
    [
        ("_MOST", 1, "ended\\. ", "stderr$"),
        ("_DESCRIPTORS", resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, "and 0 of other", "RLIMIT_NOFILE"),
    ],
)
def test_programs_are_bounded_and_one_sandbox_leaves_others_some(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch, name: str, value: int, cause: str, hint: str
) -> None:
    """In the second case there is room for two programs in all."""
    monkeypatch.setattr(f"pyisolate.sandbox.program_places.{name}", value)
    with supervisor.spawn("many", POLICY) as sandbox, supervisor.spawn("other", POLICY) as other:
        process = sandbox.popen(["sleep", "60"])
        with pytest.raises(
            pyisolate.SandboxError, match=f"popen in 'many': 1 programs run or have output.*{cause}.*{hint}"
        ):
            sandbox.popen(["sleep", "0"])
        beside = other.popen(["sleep", "60"])
        if name == "_DESCRIPTORS":
            with (
                supervisor.spawn("third", POLICY) as third,
                pytest.raises(pyisolate.SandboxError, match=r"popen in 'third': 0 programs.* 2 of other sandboxes"),
            ):
                third.popen(["sleep", "0"])
        for one in (process, beside):
            one.kill()
            assert one.wait(5) == -9
        for thread in threading.enumerate():
            if thread.name == "pyisolate-program":
                thread.join(5)
        assert sandbox.popen(["sleep", "0"]).wait(5) == 0
