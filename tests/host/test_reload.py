"""Hot reload: what the kernel can swap changes at once; what it cannot is refused; the broker never lags behind."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

import pyisolate
from pyisolate.cell import wire
from tests import inside
from tests.foreign_functions import with_ctypes

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("kept_supervisor")]

BASE = with_ctypes().with_name("reloaded")


@pytest.fixture
def server() -> socket.socket:
    """Accepts and closes: a full backlog would make a granted connect wait."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield listening
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def proves_layers(supervisor: pyisolate.Supervisor) -> bool:
    """Say whether the kernel shows that a cell put tighter file rules on, or swaps them itself."""
    bpf = inside.plan(supervisor).bpf
    return bpf.decides or bpf.counter is not None


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


CONNECT = "import socket\ndef connect(port):\n    with socket.create_connection(('127.0.0.1', port)): return True"


def test_a_network_grant_comes_and_goes(supervisor: pyisolate.Supervisor, server: socket.socket) -> None:
    port = port_of(server)
    granted = BASE.allow_connect(f"127.0.0.1:{port}")
    with supervisor.spawn("net", granted) as sandbox:
        sandbox.exec(CONNECT)
        assert sandbox.call("connect", port)
        sandbox.reload_policy(BASE.allow_connect("127.0.0.1:1"))
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.call("connect", port)
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.policy_generation == 2
        sandbox.reload_policy(granted)
        assert sandbox.call("connect", port)


def test_a_reload_reaches_a_request_that_runs(supervisor: pyisolate.Supervisor, server: socket.socket) -> None:
    port = port_of(server)
    with supervisor.spawn("busy", BASE.allow_connect("127.0.0.1:1")) as sandbox:
        sandbox.exec(CONNECT)
        wait = (
            f"import time\nend = time.monotonic() + 10\nrefused = 0\nok = False\n"
            f"while not ok and time.monotonic() < end:\n"
            f"    try: ok = connect({port})\n"
            "    except PermissionError: refused += 1; time.sleep(0.005)\n[ok, refused > 0]"
        )
        timer = threading.Timer(0.3, sandbox.reload_policy, (BASE.allow_connect(f"127.0.0.1:{port}"),))
        timer.start()
        assert sandbox.exec(wait).value == [True, True]
        timer.join()


def test_many_reloads_never_refuse_what_both_grant_nor_allow_what_neither_does(
    supervisor: pyisolate.Supervisor, server: socket.socket
) -> None:
    port = port_of(server)
    with socket.create_server(("127.0.0.1", 0)) as forbidden:
        one = BASE.allow_connect(f"127.0.0.1:{port}").allow_connect("127.0.0.1:1")
        two = BASE.allow_connect(f"127.0.0.1:{port}").allow_connect("127.0.0.1:2")
        with supervisor.spawn("hammer", one.with_limits(wall="30s", cpu="25s")) as sandbox:
            sandbox.exec(CONNECT)
            hammer = (
                "import time\nstop = time.monotonic() + 3\nwrong = []\nrounds = 0\n"
                "while time.monotonic() < stop:\n    rounds += 1\n"
                f"    try: connect({port})\n    except PermissionError as e: wrong.append(str(e))\n"
                f"    try: connect({port_of(forbidden)}); wrong.append('allowed')\n    except PermissionError: pass\n"
                "[rounds, wrong[:3]]"
            )
            results: list[object] = []
            thread = threading.Thread(target=lambda: results.append(sandbox.exec(hammer).value))
            thread.start()
            reloads = 0
            while thread.is_alive() and reloads < 1000:
                limits = {"wall": "30s", "cpu": "25s"}
                sandbox.reload_policy((two if reloads % 2 == 0 else one).with_limits(**limits))
                reloads += 1
            thread.join()
            rounds, wrong = results[0]
            assert wrong == []
            assert rounds > 10
            assert reloads > 10


def test_an_idle_cell_is_not_woken_and_its_threads_follow_all_the_same(
    supervisor: pyisolate.Supervisor, server: socket.socket
) -> None:
    granted = BASE.allow_connect(f"127.0.0.1:{server.getsockname()[1]}")
    tries = (
        "import socket, threading, time\n"
        "def refused():\n"
        "    try: socket.socket()\n"
        "    except PermissionError: return True\n"
        "    return False\n"
        "def run():\n"
        "    while refused(): time.sleep(0.01)\n"
        "    post('granted')\n"
    )

    def switches(pid: int) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches")))

    with supervisor.spawn("idle", BASE) as idle, supervisor.spawn("threads", BASE) as threads:
        assert idle.exec(tries + "refused()").value
        threads.exec(tries + "threading.Thread(target=run, daemon=True).start()")
        while "S (sleeping)" not in Path(f"/proc/{idle.pid}/status").read_text():
            time.sleep(0.001)
        before = switches(idle.pid)
        for policy in (granted, BASE, granted):
            idle.reload_policy(policy)
        assert switches(idle.pid) == before
        assert not idle.eval("refused()")
        threads.reload_policy(granted)
        assert threads.recv(10) == "granted"  # between requests
        idle.reload_policy(BASE)
        assert idle.eval("refused()")  # the control


def test_files_may_not_loosen_under_landlock(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("files", BASE) as sandbox:
        if inside.plan(supervisor).bpf.decides:
            pytest.skip("BPF-LSM may loosen: see the vm tier")
        with pytest.raises(pyisolate.EnforcementError, match="can only tighten"):
            sandbox.reload_policy(BASE.allow_read("/srv"))
        assert sandbox.policy == BASE
        assert sandbox.eval("1") == 1


def test_files_tighten_for_native_code_too(
    supervisor: pyisolate.Supervisor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = Path(f"/tmp/pyisolate-reload-{time.monotonic_ns()}")
    directory.mkdir(mode=0o755)
    try:
        (directory / "file").write_text("x")
        (directory / "file").chmod(0o644)
        path = str(directory / "file")
        raw = (
            "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"def raw():\n    fd = libc.syscall(257, -100, {path!r}.encode(), 0, 0)\n"
            "    if fd >= 0: os.close(fd)\n    return fd >= 0"
        )
        with supervisor.spawn("tighten", BASE.allow_read(str(directory))) as sandbox:
            sandbox.exec(raw)
            assert sandbox.call("raw") is True
            if not proves_layers(supervisor):
                with pytest.raises(pyisolate.EnforcementError, match="cannot be proven"):
                    sandbox.reload_policy(BASE)
                assert sandbox.call("raw") is True, "a refused reload changes nothing"
                return
            sandbox.reload_policy(BASE)
            assert sandbox.call("raw") is False
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec(f"open({path!r})")
    finally:
        (directory / "file").unlink()
        directory.rmdir()


def test_reloading_by_policy_name_reaches_every_sandbox_of_it(
    supervisor: pyisolate.Supervisor, server: socket.socket
) -> None:
    port = port_of(server)
    sandboxes = [supervisor.spawn(f"s{n}", BASE.allow_connect("127.0.0.1:1")) for n in range(3)]
    other = supervisor.spawn("other", BASE.with_name("another").allow_connect("127.0.0.1:1"))
    assert supervisor.reload_policy("reloaded", BASE.allow_connect(f"127.0.0.1:{port}")) == 3
    for sandbox in sandboxes:
        sandbox.exec(CONNECT)
        assert sandbox.call("connect", port)
    other.exec(CONNECT)
    with pytest.raises(pyisolate.PolicyError):
        other.call("connect", port)
    for sandbox in (*sandboxes, other):
        sandbox.close()


FORKS = (
    "import os\ndef forks():\n    pid = os.fork()\n    if pid == 0:\n        import time\n        time.sleep(60)\n"
    "        os._exit(0)\n    return pid"
)


def test_tightened_files_are_proven_or_refused(supervisor: pyisolate.Supervisor) -> None:
    """A guest's own word is no proof, and a child that it made would keep the old rights."""
    if inside.plan(supervisor).bpf.decides:
        pytest.skip("BPF-LSM swaps the rules itself: see the vm tier")
    granted = BASE.allow_read("/srv").allow_fork()
    with supervisor.spawn("forked", granted) as sandbox:
        sandbox.exec(FORKS)
        sandbox.call("forks")
        with pytest.raises(pyisolate.EnforcementError, match="1 other processes, which would keep the old rights"):
            sandbox.reload_policy(BASE.allow_fork())
        assert sandbox.policy == granted
    kernel_says = inside.plan(supervisor).bpf.counter is not None
    with supervisor.spawn("alone", granted.allow_read("/opt")) as sandbox:
        if not kernel_says:
            with pytest.raises(pyisolate.EnforcementError, match="the kernel does not say"):
                sandbox.reload_policy(granted)
            return
        sandbox.reload_policy(granted)
        with pytest.raises(pyisolate.EnforcementError, match="may hold the ruleset of then"):
            sandbox.reload_policy(BASE.allow_fork())


def test_a_cell_that_lies_about_its_new_rules_is_killed(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = inside.plan(supervisor)
    if plan.bpf.counter is None:
        pytest.skip("the kernel does not count layers here")
    lie = "import sys\nsys.modules['pyisolate.native.landlock'].restrict_self = lambda *_: None"
    with supervisor.spawn("liar", BASE.allow_read("/srv")) as sandbox:
        sandbox.exec(lie)
        with pytest.raises(pyisolate.SandboxDied, match="did not put the new file rules on"):
            sandbox.reload_policy(BASE)


def test_a_reload_that_fails_once_tables_are_swapped_ends_its_sandbox(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be between two policies, and its caller would take it to be under the first."""
    with supervisor.spawn("between", BASE) as sandbox, supervisor.spawn("other", BASE) as other:

        def run() -> None:
            with pytest.raises(pyisolate.SandboxDied, match="took its new policy in part"):
                sandbox.exec("post('runs')\nimport time\ntime.sleep(30)")

        thread = threading.Thread(target=run)
        thread.start()
        assert sandbox.recv(10) == "runs"
        with monkeypatch.context() as full:
            full.setattr("pyisolate.cell.outbox.MAX_OUTBOX_BYTES", 0)  # as where its guest reads nothing
            with pytest.raises(pyisolate.SandboxDied, match="failed half-way"):
                supervisor.reload_policy("reloaded", BASE.allow_connect("127.0.0.1:1"))
        thread.join(10)
        assert not thread.is_alive()
        with pytest.raises(pyisolate.SandboxDied, match="took its new policy in part"):
            sandbox.eval("1")
        assert other.eval("1") == 1  # it was idle: its broker's table comes with this


def test_a_policy_that_no_frame_holds_is_refused_before_a_table_is_swapped(
    supervisor: pyisolate.Supervisor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the next request that would bring the broker's table: the kernel's would be another by then."""
    port = server.getsockname()[1]
    with supervisor.spawn("large", BASE) as sandbox:
        monkeypatch.setitem(wire.encode.__kwdefaults__, "limit", 1 << 10)
        with pytest.raises(pyisolate.SandboxError, match="over the limit"):
            sandbox.reload_policy(BASE.allow_connect(f"127.0.0.1:{port}"))
        monkeypatch.undo()
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))")
