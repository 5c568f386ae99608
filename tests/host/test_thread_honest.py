"""Thread isolation keeps what it accepts, and says what it does not keep."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.enforcement import Coverage
from tests.foreign_functions import with_ctypes
from tests.thread_limits import WITHOUT_UNHELD


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=0) as made:
        yield made


def spawn(supervisor: pyisolate.Supervisor, **limits: Any) -> pyisolate.SandboxThread:
    return supervisor.spawn("thread", isolation="thread", limits={**WITHOUT_UNHELD, **limits})


def limits_of(sandbox: pyisolate.SandboxThread) -> list[str]:
    return [event.capability.value for event in sandbox.get_denial_events()]


# -- limits that hold ---------------------------------------------------------------------------------------


def test_too_much_output_ends_it_and_leaves_its_event(supervisor: pyisolate.Supervisor) -> None:
    with spawn(supervisor, output="1kB") as sandbox:
        assert sandbox.exec("print('x' * 900)").stdout == "x" * 900 + "\n"
        with pytest.raises(pyisolate.OutputExceeded) as caught:
            sandbox.exec("print('y' * 5000)\nafter = 1")
        assert caught.value.stdout == "y" * 99
        assert sandbox.closed
        assert sandbox.stats.output_bytes > 1000
    assert caught.value.denial_event is not None
    assert (caught.value.denial_event.capability, caught.value.limit) == ("limit.output", "output")
    assert limits_of(sandbox) == ["limit.output"]


def test_a_guest_that_catches_its_end_writes_no_more(supervisor: pyisolate.Supervisor) -> None:
    source = "for _ in range(100_000):\n    try: print('x' * 100)\n    except BaseException: pass"
    with spawn(supervisor, output="1kB") as sandbox:
        with pytest.raises(pyisolate.OutputExceeded):
            sandbox.exec(source)
        assert sandbox.stats.output_bytes < 5000


def test_too_many_messages_end_it_and_leave_their_event(supervisor: pyisolate.Supervisor) -> None:
    with spawn(supervisor, messages=2) as sandbox:
        sandbox.exec("post(1); post([2, {'three': 3}])")
        assert [sandbox.recv(1), sandbox.recv(1), sandbox.stats.messages] == [1, [2, {"three": 3}], 2]
        with pytest.raises(pyisolate.MessagesExceeded) as caught:
            sandbox.exec("for n in range(10): post(n)")
    assert caught.value.denial_event is not None
    assert limits_of(sandbox) == ["limit.messages"]


def test_what_is_no_plain_data_is_not_posted(supervisor: pyisolate.Supervisor) -> None:
    with spawn(supervisor) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="TypeError"):
            sandbox.exec("post(object())")
        sandbox.exec("post('plain')")
        assert sandbox.recv(1) == "plain"


def test_processor_time_ends_it_and_leaves_its_event(supervisor: pyisolate.Supervisor) -> None:
    with spawn(supervisor, cpu="1s", wall="20s") as sandbox:
        sandbox.exec("import time; time.sleep(1.2)")  # the control: waiting is no processor time
        with pytest.raises(pyisolate.CPUExceeded) as caught:
            sandbox.exec("while True: pass")
        assert caught.value.denial_event is not None
    assert limits_of(sandbox) == ["limit.cpu"]


def test_wall_time_leaves_its_event_and_what_was_printed(supervisor: pyisolate.Supervisor) -> None:
    with spawn(supervisor, wall="0.5s") as sandbox:
        with pytest.raises(pyisolate.TimeoutError) as caught:
            sandbox.exec("print('before')\nwhile True: pass")
        assert (caught.value.limit, caught.value.stdout) == ("wall", "before\n")
        assert caught.value.denial_event is not None
        assert sandbox.eval("1 + 1") == 2
    assert limits_of(sandbox) == ["limit.wall"]


def test_closing_it_wakes_the_request_that_runs(supervisor: pyisolate.Supervisor) -> None:
    import threading

    sandbox = spawn(supervisor)
    closer = threading.Timer(0.3, sandbox.close)
    closer.start()
    started = time.monotonic()
    with pytest.raises(pyisolate.SandboxClosed):
        sandbox.exec("while True: pass")
    assert time.monotonic() - started < 5
    closer.join()


# -- limits that do not -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["memory", "processes", "open_files", "file_size"])
def test_strict_refuses_a_limit_that_a_thread_cannot_hold(supervisor: pyisolate.Supervisor, limit: str) -> None:
    limits = {**WITHOUT_UNHELD, limit: 1 << 20}
    with pytest.raises(pyisolate.EnforcementError, match=f"limits.{limit}: 1048576") as caught:
        supervisor.spawn("thread", isolation="thread", limits=limits)
    assert "with_limits" in str(caught.value) or "limits={" in str(caught.value)
    with supervisor.spawn("thread", isolation="thread", limits=limits, enforcement="best_effort") as sandbox:
        report = sandbox.enforcement
        assert not report.complete
        assert any(line.startswith(f"limits.{limit}") for line in report.missing)
    spawn(supervisor).close()  # the control: without it, strict takes the rest


def test_the_report_says_how_far_each_limit_holds(supervisor: pyisolate.Supervisor) -> None:
    with spawn(supervisor) as sandbox:
        lines = {line.capability.value: line for line in sandbox.enforcement.capabilities}
    held = {name: lines[f"limit.{name}"].coverage for name in ("messages", "wall", "cpu", "output")}
    assert held == {"messages": "full", "wall": "partial", "cpu": "partial", "output": "partial"}
    for name in ("memory", "processes", "open_files", "file_size"):
        assert (lines[f"limit.{name}"].coverage, lines[f"limit.{name}"].enforcers) == (Coverage.NONE, ())
    assert lines["fs.metadata"].coverage is Coverage.PARTIAL or "bpf-lsm" in lines["fs.metadata"].enforcers
    with supervisor.spawn("cell") as cell:
        full = {line.capability.value: line.coverage for line in cell.enforcement.capabilities}
        assert full["limit.wall"] is full["limit.open_files"] is Coverage.FULL


def test_native_code_changes_metadata_as_the_report_says(supervisor: pyisolate.Supervisor, tmp_path: Any) -> None:
    file = tmp_path / "granted"
    file.write_text("")
    policy = with_ctypes().allow_read(str(tmp_path))
    source = f"import ctypes\nctypes.CDLL(None).chmod({os.fsencode(str(file))!r}, 0o600)"
    with supervisor.spawn("thread", policy, isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
        line = next(one for one in sandbox.enforcement.capabilities if one.capability == "fs.metadata")
        changed = sandbox.exec(source).value == 0
        assert changed == ("bpf-lsm" not in line.enforcers)
        with pytest.raises(pyisolate.PolicyError):  # what the report claims of the broker
            sandbox.exec(f"import os; os.chmod({str(file)!r}, 0o644)")


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_what_is_the_hosts_alone_no_mode_lets_pass(supervisor: pyisolate.Supervisor, mode: Any) -> None:
    here = os.getcwd()
    calls = {
        "libc.chdir(b'/')": ("fs.metadata", "/"),
        "libc.umask(0o22)": ("fs.metadata", "umask()"),
        "libc.kill(1, 0)": ("process.signal", "kill(1, signal 0)"),
        "libc.setuid(12345)": ("kernel.capability", "setuid(12345)"),  # asks the host's threads, which leaves none
    }
    with supervisor.spawn("thread", with_ctypes(), isolation="thread", limits=WITHOUT_UNHELD, mode=mode) as sandbox:
        sandbox.exec("import ctypes; libc = ctypes.CDLL(None)")
        for call, (capability, target) in calls.items():
            assert sandbox.eval(call) == -1
            event = sandbox.get_denial_events()[-1]
            assert (event.capability, event.target, event.code) == (capability, target, "ALWAYS_DENIED")
            assert (event.kernel_decision, event.suggestion) == ("deny", None)
        assert len(sandbox.get_denial_events()) == len(calls)
    assert os.getcwd() == here
    with supervisor.spawn("cell", with_ctypes()) as cell:  # the control: these are a cell's own
        assert cell.exec("import os; os.chdir('/'); os.umask(0o22); os.kill(os.getpid(), 0)").denials == ()


def test_it_tells_whether_the_broker_was_asked_of_a_call(supervisor: pyisolate.Supervisor) -> None:
    policy = with_ctypes().allow_connect("127.0.0.1:9")
    address = "(2).to_bytes(2, 'little') + bytes([0, 80, 10, 1, 2, 3]) + bytes(8)"
    with supervisor.spawn("thread", policy, isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec("import ctypes, socket; libc = ctypes.CDLL(None); made = socket.socket()")
        assert sandbox.exec(f"libc.connect(made.fileno(), {address}, 16)").value == -1
        with pytest.raises(pyisolate.GuestError):  # granted: nobody listens there
            sandbox.exec("made.connect(('127.0.0.1', 9))")
        assert sandbox.exec(f"libc.connect(made.fileno(), {address}, 16)").value == -1
        asked = [(one.target, one.broker_decision, one.kernel_decision) for one in sandbox.get_denial_events()]
        assert set(asked) == {("10.1.2.3:80", "not_consulted", "deny")}
    with supervisor.spawn("thread", policy.with_mode("monitor"), isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec("import os; os.getpid(); import socket; made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        sandbox.exec("made.connect(('127.0.0.1', 10))")  # the control: Python's call, which both would refuse
        (event,) = sandbox.get_denial_events()
        assert (event.target, event.broker_decision, event.kernel_decision) == (
            "127.0.0.1:10", "would_deny", "would_deny",
        )  # fmt: skip


# -- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [{"env": {"A": "1"}}, {"cwd": "/tmp"}])
def test_what_a_thread_cannot_have_of_its_own_is_refused(
    supervisor: pyisolate.Supervisor, argument: dict[str, Any]
) -> None:
    for enforcement in ("strict", "best_effort"):
        with pytest.raises(ValueError, match="a sandbox thread has the host's own"):
            supervisor.spawn("thread", isolation="thread", enforcement=enforcement, **argument)  # type: ignore[call-overload]
    with supervisor.spawn("cell", **argument) as cell:
        cell.exec("1")


def test_both_streams_are_captured_and_streamed(supervisor: pyisolate.Supervisor) -> None:
    out: list[str] = []
    err: list[str] = []
    host = sys.stdout, sys.stderr
    source = (
        "import sys\nprint('printed')\nsys.stdout.write('written\\n')\nsys.stdout.buffer.write(b'raw\\n')\n"
        "print('to stderr', file=sys.stderr)"
    )
    with supervisor.spawn(
        "thread", isolation="thread", limits=WITHOUT_UNHELD, on_stdout=out.append, on_stderr=err.append
    ) as sandbox:
        result = sandbox.exec(source)
    assert result.stdout == "".join(out) == "printed\nwritten\nraw\n"
    assert result.stderr == "".join(err) == "to stderr\n"
    assert (sys.stdout, sys.stderr) == host


def test_the_hosts_own_output_stays_the_hosts(
    supervisor: pyisolate.Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    with spawn(supervisor) as sandbox:
        result = sandbox.call(_says_hello_elsewhere)
    assert result == "done"
    assert capsys.readouterr().out == "from the host\n"


def _says_hello_elsewhere() -> str:
    from pyisolate.sandbox.host_executor import HostSide

    side = HostSide()
    side.start()
    side.do(lambda: print("from the host"))
    side.close()
    return "done"


def test_randomness_that_a_policy_denies(supervisor: pyisolate.Supervisor) -> None:
    policy = Policy.preset("compute").deny_random()
    with pytest.raises(pyisolate.EnforcementError, match="random"):
        supervisor.spawn("thread", policy, isolation="thread", limits=WITHOUT_UNHELD)
    with supervisor.spawn(
        "thread", policy, isolation="thread", limits=WITHOUT_UNHELD, enforcement="best_effort"
    ) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("import os; os.urandom(8)")
        assert "random.read" in [event.capability for event in sandbox.get_denial_events()]
        line = next(one for one in sandbox.enforcement.capabilities if one.capability == "random.read")
        assert line.coverage is Coverage.PARTIAL
    with spawn(supervisor) as granted:
        assert len(granted.exec("import os; os.urandom(8)").value) == 8


def test_a_reload_by_name_is_refused_in_words(supervisor: pyisolate.Supervisor) -> None:
    policy = with_ctypes().with_name("mixed").with_limits(**WITHOUT_UNHELD)
    wider = policy.allow_connect("127.0.0.1:9")
    with supervisor.spawn("thread", policy, isolation="thread") as thread, supervisor.spawn("cell", policy) as cell:
        with pytest.raises(pyisolate.EnforcementError, match="keeps its kernel policy for life"):
            supervisor.reload_policy("mixed", wider)
        assert cell.policy == wider  # the others are reloaded
        assert thread.policy == policy


# -- a refusal that was caught ------------------------------------------------------------------------------

SWALLOWED = "import ctypes\nctypes.CDLL(None, use_errno=True).unshare(0x10000000)\n"


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize(
    "source",
    [
        SWALLOWED + "raise PermissionError(1, 'my own business')",
        "try: open('/etc/passwd')\nexcept PermissionError: pass\nraise PermissionError(13, 'my own business')",
        "try: open('/etc/passwd')\nexcept PermissionError: pass\nraise PermissionError('my own business')",
        SWALLOWED + "class PolicyError(Exception): pass\nraise PolicyError('my own business')",
    ],
)
def test_a_caught_refusal_is_not_blamed_for_the_guests_own_exception(
    supervisor: pyisolate.Supervisor, isolation: Any, source: str
) -> None:
    with supervisor.spawn("guest", with_ctypes(), isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="my own business"):
            sandbox.exec(source)
        assert len(sandbox.get_denial_events()) == 1  # the refusal itself is recorded all the same


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_refusal_that_the_guest_raises_again_is_the_one(supervisor: pyisolate.Supervisor, isolation: Any) -> None:
    source = "try: open('/etc/passwd')\nexcept PermissionError: raise"
    with supervisor.spawn("guest", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        for _ in range(3):  # repeats are coalesced, and still known
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(source)
            assert caught.value.denial_event is not None
            assert caught.value.denial_event.target == "/etc/passwd"


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_refused_call_of_native_code_raises_its_refusal(supervisor: pyisolate.Supervisor, isolation: Any) -> None:
    source = SWALLOWED + "import mmap\nmmap.mmap(-1, 4096, prot=7)"
    with supervisor.spawn("guest", with_ctypes(), isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(source)
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.capability == "memory.exec"
