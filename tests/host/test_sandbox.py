"""The public contract of `Sandbox`, on the kernel at hand."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from tests.foreign_functions import with_ctypes

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("kept_supervisor")]


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that cells may reach whatever their uid."""
    directory = Path("/tmp") / f"pyisolate-test-{os.getpid()}-{time.monotonic_ns()}"
    directory.mkdir(mode=0o755)
    (directory / "granted.txt").write_text("granted")
    (directory / "secret.txt").write_text("secret")
    for name in ("granted.txt", "secret.txt"):
        (directory / name).chmod(0o644)
    yield directory
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    directory.rmdir()


def test_state_persists_and_the_last_expression_is_the_value(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("state") as sandbox:
        assert sandbox.exec("x = 20").value is None
        assert sandbox.exec("x += 1\nx * 2").value == 42
        assert sandbox.eval("x") == 21


def test_output_is_captured_apart(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("out") as sandbox:
        result = sandbox.exec("import sys; print('one'); print('two', file=sys.stderr); 3")
        assert (result.stdout, result.stderr, result.value) == ("one\n", "two\n", 3)
        assert sandbox.exec("print('again')").stdout == "again\n"


def test_output_streams_while_the_guest_runs(supervisor: pyisolate.Supervisor) -> None:
    seen: list[tuple[float, str]] = []
    with supervisor.spawn("stream") as sandbox:
        sandbox.exec(
            "import time\nprint('a')\ntime.sleep(0.3)\nprint('b')",
            on_stdout=lambda text: seen.append((time.monotonic(), text)),
        )
    assert "".join(text for _, text in seen) == "a\nb\n"
    assert seen[-1][0] - seen[0][0] > 0.2


def test_what_has_no_form_comes_back_as_its_repr(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("repr") as sandbox:
        result = sandbox.exec("object")
        assert result.value_is_repr
        assert result.value == "<class 'object'>" == sandbox.eval("object")
        odd = sandbox.exec("[1, (2, object)]")
        assert odd.value_is_repr
        assert odd.value == [1, (2, "<class 'object'>")]
        with pytest.raises(pyisolate.GuestError, match="not plain data"):
            sandbox.exec("post(object)")


def test_call_takes_a_name_or_a_host_function(supervisor: pyisolate.Supervisor) -> None:
    def area(width: int, *, height: int) -> int:
        return width * height

    with supervisor.spawn("call") as sandbox:
        assert sandbox.call("math.gcd", 12, 18) == 6
        assert sandbox.call(area, 6, height=7) == 42
        sandbox.exec("def double(x): return 2 * x")
        assert sandbox.call("double", 4) == 8


def test_messages_go_both_ways(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("messages") as sandbox:
        sandbox.post({"n": 20})
        sandbox.exec("post(recv(timeout=2)['n'] + 1)")
        assert sandbox.recv(timeout=2) == 21
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.recv(timeout=0.05)


def test_a_guest_exception_arrives_as_text(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("raises") as sandbox:
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec("def f():\n    return {}['k']\nf()", filename="job.py")
        assert caught.value.type_name == "KeyError"
        assert 'File "job.py", line 2, in f' in caught.value.traceback
        assert "pyisolate/cell" not in caught.value.traceback
        assert sandbox.eval("1") == 1


def test_a_file_outside_the_policy_is_refused_with_its_event(supervisor: pyisolate.Supervisor, data: Path) -> None:
    policy = Policy.preset("compute").allow_read(str(data / "granted.txt"))
    with supervisor.spawn("files", policy) as sandbox:
        assert sandbox.exec(f"open({str(data / 'granted.txt')!r}).read()").value == "granted"
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(f"open({str(data / 'secret.txt')!r}).read()", filename="job.py")
        event = caught.value.denial_event
        assert event is not None
        assert (event.capability, event.target, event.broker_decision) == ("fs.read", str(data / "secret.txt"), "deny")
        assert event.origin == "job.py:1 in <module>"
        assert event.suggestion is not None
        assert [e.event_id for e in sandbox.get_denial_events()] == [event.event_id]


def test_native_code_that_goes_round_the_broker_meets_the_kernel(supervisor: pyisolate.Supervisor, data: Path) -> None:
    policy = with_ctypes().allow_read(str(data / "granted.txt"))
    read = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def raw(path):\n"
        "    fd = libc.syscall(257, -100, path.encode(), 0, 0)\n"
        "    return os.read(fd, 20).decode() if fd >= 0 else -ctypes.get_errno()\n"
    )
    with supervisor.spawn("raw", policy) as sandbox:
        sandbox.exec(read)
        assert sandbox.eval(f"raw({str(data / 'granted.txt')!r})") == "granted"
        assert sandbox.eval(f"raw({str(data / 'secret.txt')!r})") in (-13, -2, -1)
        assert sandbox.eval("raw('/etc/shadow')") in (-13, -2, -1)


def test_a_denial_that_the_guest_catches_is_an_event_all_the_same(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("caught") as sandbox:
        result = sandbox.exec(
            "try:\n    open('/etc/shadow')\nexcept PermissionError as e:\n    print(type(e).__name__)"
        )
        assert result.stdout == "PolicyError\n"
        assert [event.target for event in result.denials] == ["/etc/shadow"]


def test_a_refused_system_call_is_an_event_of_the_kernel(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("syscall", with_ctypes()) as sandbox:
        value = sandbox.exec(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n(libc.unshare(0x10000000), ctypes.get_errno())"
        ).value
        assert value == (-1, 1)
        events = sandbox.get_denial_events()
        assert [(e.capability, e.code, e.kernel_decision) for e in events] == [
            ("kernel.namespace", "ALWAYS_DENIED", "deny")
        ]
        assert events[0].reported_by == "kernel"
        assert events[0].suggestion is None


def test_the_cell_has_nothing_of_the_host(supervisor: pyisolate.Supervisor) -> None:
    os.environ["PYISOLATE_TEST_SECRET"] = "hunter2"
    try:
        with supervisor.spawn("bare", env={"GIVEN": "yes"}) as sandbox:
            seen = sandbox.exec("import os; [dict(os.environ), os.getpid(), os.getuid(), os.getcwd()]").value
            environment, pid, uid, cwd = seen
            assert environment["GIVEN"] == "yes"
            assert "PYISOLATE_TEST_SECRET" not in environment
            assert pid == 2, "the guest: 1 is the cell's init"
            assert uid != 0
            assert cwd == environment["HOME"] == "/sandbox/workspace"
            status = Path(f"/proc/{sandbox.pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            assert "CapBnd:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            descriptors = sorted(
                os.readlink(f"/proc/{sandbox.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{sandbox.pid}/fd")
            )
            assert [d.partition(":")[0] for d in descriptors] == ["/dev/null", "pipe", "pipe", "socket"]
    finally:
        del os.environ["PYISOLATE_TEST_SECRET"]


def test_a_timeout_kills_a_loop_that_python_cannot_interrupt(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("loop") as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.TimeoutError) as caught:
            sandbox.exec("import itertools; sum(itertools.repeat(1))", timeout=0.5)
        assert time.monotonic() - started < 1.5
        assert caught.value.limit == "timeout"
        assert sandbox.closed
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("1")


def test_kill_from_another_thread_ends_a_request(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("killed") as sandbox:
        threading.Timer(0.2, sandbox.kill).start()
        with pytest.raises(pyisolate.SandboxClosed):
            sandbox.exec("import time; time.sleep(30)")


def test_interrupt_raises_in_the_guest(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("interrupted") as sandbox:
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec("import time\nprint('on')\ntime.sleep(10)", on_stdout=lambda _text: sandbox.interrupt())
        assert caught.value.type_name == "KeyboardInterrupt"
        assert sandbox.eval("2") == 2


def test_a_cell_that_dies_says_how(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("dies") as sandbox:
        with pytest.raises(pyisolate.SandboxDied) as caught:
            sandbox.exec("import os, sys; sys.stderr.write('last words'); sys.stderr.flush(); os._exit(7)")
        assert caught.value.exit_status == 7
        assert "last words" in caught.value.last_words


def test_closing_ends_every_process_of_the_sandbox(supervisor: pyisolate.Supervisor) -> None:
    policy = Policy.preset("compute").allow_fork()
    sandbox = supervisor.spawn("children", policy)
    sandbox.exec("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)")
    inside = Path(f"/proc/{sandbox.pid}/ns/pid").stat().st_ino
    others = [pid for pid in os.listdir("/proc") if pid.isdigit() and _namespace(pid) == inside]
    assert len(others) == 3, "init, guest and child"
    sandbox.close()
    deadline = time.monotonic() + 1
    while any(_namespace(pid) == inside for pid in others) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_namespace(pid) == inside for pid in others)


def _namespace(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def test_the_zygote_may_die() -> None:
    with pyisolate.Supervisor(pool_size=1) as own:
        first = own.spawn("first")
        assert first.eval("1") == 1
        os.kill(own.diagnostics().zygote_pid, 9)
        with pytest.raises((pyisolate.SandboxDied, pyisolate.SandboxClosed)):
            first.exec("while True: pass", timeout=60)
        with own.spawn("second") as second:
            assert second.eval("2") == 2


def test_a_forked_host_cannot_use_the_supervisor_and_does_not_end_it(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("parent") as sandbox:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not supervisor.sandboxes else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert sandbox.eval("1 + 1") == 2


def test_many_threads_share_a_supervisor(supervisor: pyisolate.Supervisor) -> None:
    results: list[int] = []

    def work(number: int) -> None:
        with supervisor.spawn(f"t{number}") as sandbox:
            results.append(sandbox.eval(f"{number} * 2"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * 2 for n in range(12)]


def test_the_async_twin(supervisor: pyisolate.Supervisor) -> None:
    async def work(number: int) -> int:
        async with await supervisor.aspawn(f"a{number}") as sandbox:
            return (await sandbox.aexec(f"{number} + 1")).value

    async def main() -> list[int]:
        return await asyncio.gather(*(work(n) for n in range(8)))

    assert asyncio.run(main()) == list(range(1, 9))


def test_a_cancelled_task_ends_its_sandbox(supervisor: pyisolate.Supervisor) -> None:
    async def main() -> bool:
        sandbox = await supervisor.aspawn("cancelled")
        task = asyncio.create_task(sandbox.aexec("import time; time.sleep(30)"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sandbox.aclose()
        return sandbox.closed

    started = time.monotonic()
    assert asyncio.run(main())
    assert time.monotonic() - started < 5


def test_unknown_words_are_refused() -> None:
    for options in ({"isolation": "vm"}, {"enforcement": "maybe"}, {"mode": "audit"}):
        with pytest.raises(ValueError):
            pyisolate.spawn("x", **options)


@pytest.mark.slow
def test_a_policy_per_request_does_not_use_up_descriptors(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("kept", Policy.preset("compute").with_name("kept")) as kept:
        before = None
        for number in range(90):
            policy = Policy.preset("compute").allow_connect(f"127.0.0.1:{1000 + number}")
            with supervisor.spawn("one", policy) as sandbox:
                assert sandbox.eval("1") == 1
            if number == 70:
                before = len(os.listdir("/proc/self/fd"))
        assert before is not None
        assert len(os.listdir("/proc/self/fd")) <= before + 12
        assert kept.eval("2") == 2
