"""Thread isolation: the kernel confines the sandbox thread and what it starts, and nobody else."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.sinks.audit_reader import read_events
from tests.foreign_functions import with_ctypes
from tests.thread_limits import WITHOUT_UNHELD

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("kept_supervisor")]

RAW_OPEN = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def raw(path):
    fd = libc.syscall(257, -100, path.encode(), 0, 0)
    error = ctypes.get_errno()
    if fd >= 0:
        os.close(fd)
    return fd if fd < 0 else 0, error
"""


@pytest.fixture
def thread(supervisor: pyisolate.Supervisor) -> Iterator[pyisolate.SandboxThread]:
    policy = with_ctypes()
    with supervisor.spawn("thread", policy, isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
        yield sandbox


def test_it_runs_and_keeps_state(thread: pyisolate.SandboxThread) -> None:
    assert thread.exec("x = 41").value is None
    result = thread.exec("print('hi'); x + 1")
    assert (result.stdout, result.value) == ("hi\n", 42)
    assert thread.call("math.gcd", 12, 18) == 6


def test_a_refused_file_raises_with_its_event(thread: pyisolate.SandboxThread) -> None:
    with pytest.raises(pyisolate.PolicyError) as caught:
        thread.exec("open('/etc/passwd').read()")
    event = caught.value.denial_event
    assert event is not None
    assert (event.capability, event.target, event.isolation) == ("fs.read", "/etc/passwd", "thread")


def test_a_name_below_a_descriptor_is_not_told_as_one_below_the_current_directory(
    thread: pyisolate.SandboxThread,
) -> None:
    thread.exec(
        "import os\ndef opened(dir_fd): os.open('passwd', 0, dir_fd=dir_fd)\nfolder = os.open('/etc', os.O_PATH)"
    )
    with pytest.raises(pyisolate.SandboxError):
        thread.exec("opened(folder)")
    assert {event.capability for event in thread.get_denial_events()} <= {"fs.access"}  # counted, where that can be
    reads = next(line for line in thread.enforcement.capabilities if line.capability == "fs.read")
    assert "os.open with a dir_fd" in reads.telemetry
    with pytest.raises(pyisolate.PolicyError):  # the control
        thread.exec("os.close(folder); os.open('passwd', 0)")
    assert [e.target for e in thread.get_denial_events() if e.capability == "fs.read"] == [os.path.abspath("passwd")]


def test_native_code_on_the_thread_meets_the_kernel_and_the_host_does_not(thread: pyisolate.SandboxThread) -> None:
    thread.exec(RAW_OPEN)
    result, error = thread.eval("raw('/etc/passwd')")
    assert (result, error) == (-1, 13)
    reads = next(line for line in thread.enforcement.capabilities if line.capability == "fs.read")
    counted = [("fs.access", "", 1)] if reads.telemetry.startswith("counted exactly") else []
    assert [(event.capability, event.target, event.count) for event in thread.get_denial_events()] == counted
    assert Path("/etc/passwd").read_text()  # the same call on a host thread
    seen: list[str] = []
    other = threading.Thread(target=lambda: seen.append(Path("/etc/passwd").read_text()))
    other.start()
    other.join()
    assert seen[0]


def test_threads_that_the_guest_starts_are_confined_too(thread: pyisolate.SandboxThread) -> None:
    thread.exec(RAW_OPEN)
    thread.exec(
        "import threading\nseen = []\n"
        "t = threading.Thread(target=lambda: seen.append(raw('/etc/passwd')))\nt.start(); t.join()"
    )
    assert thread.eval("seen") == [(-1, 13)]


def test_a_system_call_of_the_floor_is_refused_and_recorded(thread: pyisolate.SandboxThread) -> None:
    thread.exec("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)")
    assert thread.eval("(libc.unshare(0x10000000), ctypes.get_errno())") == (-1, 1)
    assert "kernel.namespace" in [event.capability for event in thread.get_denial_events()]


def test_it_says_that_it_is_a_guard_rail(thread: pyisolate.SandboxThread) -> None:
    assert any("guard rail" in note for note in thread.enforcement.notes)
    assert thread.pid == os.getpid()


def test_a_reload_is_refused(thread: pyisolate.SandboxThread) -> None:
    with pytest.raises(pyisolate.EnforcementError):
        thread.reload_policy(Policy.preset("none"))


def test_a_python_loop_can_be_timed_out(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("loop", isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("while True: pass", timeout=0.3)
        assert sandbox.eval("1 + 1") == 2


def test_await_stands_outside_of_functions(thread: pyisolate.SandboxThread) -> None:
    """On a loop that lives on with its tasks, and that an exception from outside reaches while it waits."""
    source = "import asyncio\nasync def twice(x): return 2 * x\nwaits = asyncio.Event()"
    assert thread.exec(f"{source}\nawait twice(3)").value == 6
    assert thread.eval("await twice(4)") == 8
    assert thread.call("twice", 5) == 10
    with pytest.raises(pyisolate.TimeoutError):
        thread.exec("await waits.wait()", timeout=0.3)
    assert thread.exec("x = await twice(6)\nx").value == 12


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_the_runtime_is_refused_nothing_on_its_own_account(supervisor: pyisolate.Supervisor, isolation: str) -> None:
    none = Policy.preset("none").allow_random() if isolation == "thread" else Policy.preset("none")
    with supervisor.spawn("quiet", none, isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/passwd')")
        assert [(e.capability, e.target) for e in sandbox.get_denial_events()] == [("fs.read", "/etc/passwd")]


def test_sinks_and_audit_log_of_a_confined_thread_are_not_confined(tmp_path: Path) -> None:
    class Opens:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def emit(self, event: pyisolate.DenialEvent) -> None:
            self.seen.append(Path("/etc/passwd").read_text()[:4])

        def close(self) -> None:
            pass

    sink = Opens()
    log = AuditLog(tmp_path / "log", max_bytes=2000, backups=9)  # rotates: opens files
    with pyisolate.Supervisor(pool_size=0, audit=log, sinks=[sink], alerts=[]) as supervisor:
        with supervisor.spawn("thread", isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
            for number in range(10):
                with pytest.raises(pyisolate.PolicyError):
                    sandbox.exec(f"open('/etc/secret-{number}')")
        supervisor.recorder.flush()
    assert len(sink.seen) == 10
    assert len(list(tmp_path.iterdir())) > 1
    shown = [event.target for path in tmp_path.iterdir() for event in read_events(path)]
    assert sorted(set(shown)) == sorted({f"/etc/secret-{number}" for number in range(10)})


def test_the_async_twin_on_a_thread(supervisor: pyisolate.Supervisor) -> None:
    async def main() -> None:
        async with await supervisor.aspawn("twin", isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
            assert (await sandbox.aexec("def double(x): return 2 * x\ndouble(4)")).value == 8
            assert await sandbox.acall("double", 21) == 42
            task = asyncio.create_task(sandbox.arecv())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await sandbox.aexec("post('kept'); post('second')")
            assert [await sandbox.arecv(timeout=5), await sandbox.arecv(timeout=5)] == ["kept", "second"]
        assert sandbox.closed

    asyncio.run(main())


def test_nobody_waits_for_a_thread_that_is_closed(supervisor: pyisolate.Supervisor) -> None:
    sandbox = supervisor.spawn("silent", isolation="thread", limits=WITHOUT_UNHELD)
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            sandbox.recv()
        except pyisolate.SandboxError as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    sandbox.exec("1")
    assert not ended  # the control: they wait
    sandbox.close()
    for thread in threads:
        thread.join(5)
    assert ended == [pyisolate.SandboxClosed] * 3
