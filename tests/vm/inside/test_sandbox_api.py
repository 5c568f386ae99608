"""The public API with BPF-LSM as the decider: what the host tier shows for Landlock, and what only BPF-LSM can."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import pyisolate
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.thread_limits import WITHOUT_UNHELD
from tests.truth.measure import cases, measure
from tests.truth.world import make_world

RAW = """
import ctypes, os

libc = ctypes.CDLL(None, use_errno=True)
def raw(path):
    fd = libc.syscall(257, -100, path.encode(), 0, 0)
    error = ctypes.get_errno()
    if fd >= 0:
        os.close(fd)
    return 0 if fd >= 0 else error
"""


@pytest.fixture
def files() -> Path:
    directory = Path("/mnt/api")
    directory.mkdir(mode=0o755, exist_ok=True)
    for name in ("granted", "secret"):
        (directory / name).write_text(name)
        (directory / name).chmod(0o644)
    return directory


def test_the_programs_decide_and_the_report_says_so(supervisor: pyisolate.Supervisor, files: Path) -> None:
    with supervisor.spawn("report") as sandbox:
        assert sandbox.enforcement.missing == ()
        lines = {line.capability: line for line in sandbox.enforcement.capabilities}
        assert lines["fs.read"].enforcers == ("bpf-lsm",)
        assert sandbox.exec("1 + 1").value == 2


def test_native_code_is_refused_and_told_apart_from_the_interpreter(
    supervisor: pyisolate.Supervisor, files: Path
) -> None:
    granted, secret = str(files / "granted"), str(files / "secret")
    with supervisor.spawn("raw", with_ctypes().allow_read(granted)) as sandbox:
        sandbox.exec(RAW)
        assert sandbox.eval(f"open({granted!r}).read()") == "granted"
        assert sandbox.eval(f"raw({granted!r})") == 0
        assert sandbox.eval(f"raw({secret!r})") == 13
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(f"open({secret!r})")
        events = {(e.broker_decision, e.kernel_decision, e.kernel_evaluation) for e in _of(sandbox, secret)}
        assert events == {("not_consulted", "deny", "enforced"), ("deny", "deny", "probed")}
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.target == secret


def test_a_reload_may_loosen_and_tighten_a_running_cell(supervisor: pyisolate.Supervisor, files: Path) -> None:
    granted, secret = str(files / "granted"), str(files / "secret")
    base = with_ctypes().allow_read(granted)
    with supervisor.spawn("reload", base) as sandbox:
        sandbox.exec(RAW)
        assert sandbox.eval(f"raw({secret!r})") == 13
        sandbox.reload_policy(base.allow_read(secret))
        assert sandbox.eval(f"raw({secret!r})") == 0
        assert sandbox.eval(f"open({secret!r}).read()") == "secret"
        sandbox.reload_policy(base)
        assert sandbox.eval(f"raw({secret!r})") == 13
        assert sandbox.get_denial_events()[-1].policy_generation == 3


def test_monitor_mode_lets_through_and_the_kernel_says_what_it_would_have_done(
    supervisor: pyisolate.Supervisor, files: Path
) -> None:
    secret = str(files / "secret")
    with supervisor.spawn("monitor", with_ctypes(), mode="monitor") as sandbox:
        sandbox.exec(RAW)
        assert sandbox.eval(f"raw({secret!r})") == 0
        events = _of(sandbox, secret)
        assert events
        assert all(event.would_deny for event in events)
        assert {event.kernel_decision for event in events} == {"would_deny"}


def test_the_network_is_decided_by_address_and_port(supervisor: pyisolate.Supervisor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as granted, socket.create_server(("127.0.0.1", 0)) as other:
        port, refused = granted.getsockname()[1], other.getsockname()[1]
        policy = with_ctypes().allow_connect(f"127.0.0.1:{port}")
        with supervisor.spawn("net", policy) as sandbox:
            sandbox.exec("import socket")
            sandbox.exec("def connect(p): socket.create_connection(('127.0.0.1', p)).close(); return True")
            assert sandbox.call("connect", port)
            with pytest.raises(pyisolate.PolicyError):
                sandbox.call("connect", refused)


def test_a_sandbox_thread_is_confined_and_its_neighbours_are_not(supervisor: pyisolate.Supervisor, files: Path) -> None:
    secret = str(files / "secret")
    with supervisor.spawn("thread", with_ctypes(), isolation="thread", limits=WITHOUT_UNHELD) as sandbox:
        sandbox.exec(RAW)
        assert sandbox.eval(f"raw({secret!r})") == 13
        assert Path(secret).read_text() == "secret"
        assert _of(sandbox, secret)


def test_after_close_nothing_is_left(supervisor: pyisolate.Supervisor, files: Path) -> None:
    sandbox = supervisor.spawn("gone")
    sandbox.close()
    assert inside.session(sandbox).finished.wait(30)  # its cell is reaped
    assert inside.plan(supervisor).bpf.shared is not None
    assert inside.plan(supervisor).bpf.shared.entries.get(sandbox.id) is None
    assert Path(files / "secret").read_text() == "secret"


def _of(sandbox: pyisolate.Sandbox, target: str) -> list[pyisolate.DenialEvent]:
    return [event for event in sandbox.get_denial_events() if event.target == target]


def test_refusals_beyond_the_budget_are_told_as_a_count(
    supervisor: pyisolate.Supervisor, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inside.plan(supervisor).bpf.shared is not None
    monkeypatch.setattr(inside.plan(supervisor).bpf.shared, "events_per_s", 20)
    secret = str(files / "secret")
    with supervisor.spawn("flood", with_ctypes().allow_read(str(files / "granted"))) as sandbox:
        sandbox.exec(RAW)
        before = sandbox.stats.denials
        assert sandbox.eval(f"sum(raw({secret!r}) == 13 for _ in range(500))") == 500
        told = sandbox.get_denial_events()
        assert sandbox.stats.denials - before == 500
        counted = [event for event in told if event.kernel_evaluation == "counted"]
        assert counted
        assert {(event.kernel_enforcer, event.capability) for event in counted} == {("bpf-lsm", "fs.read")}


#: One of each kind of the matrix that has been wrong here; `python -m tests.truth --vm 6.12` does all of it.
SAMPLE = (
    "read a hidden file",
    "look at a hidden folder, stat",
    "chmod hidden",
    "hard link",
    "import a module",
    "connect elsewhere",
    "ptrace",
)


def test_a_sample_of_the_truth_matrix_is_right(
    supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/mnt")
    with make_world() as world:
        rates = measure(supervisor, world, [case for case in cases(world) if case[0].name in SAMPLE])
    assert len(rates.refused) >= 2 * len(SAMPLE)
    assert [(one.operation, one.way, one.problems) for one in rates.refused if not one.right] == []


def test_a_workspace_is_the_sandboxs_own(supervisor: pyisolate.Supervisor, files: Path) -> None:
    shared = files / "granted"
    shared.chmod(0o666)
    policy = pyisolate.Policy.preset("compute").with_workspace("1MiB").allow_write(str(shared))
    with supervisor.spawn("one", policy, files={"in.csv": "1,2"}) as one, supervisor.spawn("two", policy) as two:
        assert one.enforcement.missing == ()
        assert not any(note.startswith("no workspace") for note in one.enforcement.notes)
        one.exec("import os\nfor name in ('a', '/tmp/b', '/dev/shm/c'): open(name, 'w').write(name)")
        one.exec("os.rename('a', 'd'); os.utime('d', (1, 1)); os.chmod('d', 0o600)")
        for each in (one, two):  # a file of the host's, which has one more name for each sandbox
            each.exec(f"import os; os.utime({str(shared)!r})")
        assert one.eval("sorted(os.listdir('/tmp'))") == ["b", "c", "d", "in.csv"]
        assert two.eval("__import__('os').listdir('/tmp')") == []
        assert one.files.read_text("d") == "a"
        assert one.get_denial_events() == two.get_denial_events() == []
        with pytest.raises(pyisolate.WorkspaceExceeded):
            one.exec("open('big', 'wb').write(bytes(2 << 20))")
        with pytest.raises(pyisolate.PolicyError) as caught:
            one.exec(f"open({str(files / 'secret')!r})")
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.target == str(files / "secret")
        one.reload_policy(policy.allow_read(str(files / "secret")))
        assert one.eval(f"open({str(files / 'secret')!r}).read()") == "secret"


def test_a_given_directory_is_shown_in_a_workspace_of_memory(supervisor: pyisolate.Supervisor, files: Path) -> None:
    given, beside = files / "given", files / "secret"
    given.mkdir()
    os.chown(given, 65534, 65534)
    policy = pyisolate.Policy.preset("compute").with_workspace("1MiB")
    with supervisor.spawn("given", policy, workspace=given) as sandbox:
        sandbox.exec(
            "import os\nfor name in ('a', 'b', '/tmp/c', os.path.expanduser('~/d')): open(name, 'w').write(name)"
        )
        sandbox.exec("os.rename('a', 'e'); os.chmod('e', 0o600); os.remove('b')")
        assert sandbox.eval("os.getcwd()") == f"{PLACE}/project"
        assert sandbox.eval("sorted(os.listdir('/tmp'))") == ["c", "d", "project"]
        assert sandbox.get_denial_events() == []
        assert os.listdir(given) == ["e"]
        assert sandbox.files.read_text("e") == "a"
        with pytest.raises(pyisolate.WorkspaceExceeded):
            sandbox.exec("open('/tmp/big', 'wb').write(bytes(2 << 20))")
        for source, target in ((f"open({str(beside)!r})", str(beside)), ("open('../../../etc/shadow')", "/etc/shadow")):
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(source)
            assert caught.value.denial_event is not None
            assert caught.value.denial_event.target == target
        sandbox.exec("try: os.rename('/sandbox/workspace/project', '/sandbox/workspace/other')\nexcept OSError: pass")
        assert sandbox.eval("sorted(os.listdir(os.getcwd()))") == ["e"]


PLACE = "/sandbox/workspace"
RUN = """
import os, shutil, subprocess
shutil.copy('/usr/bin/true', 'tool')
os.chmod('tool', 0o755)
subprocess.run(['/usr/bin/dash', '-c', './tool']).returncode
"""
SHARED = """
import multiprocessing, os
context = multiprocessing.get_context('fork')
with context.Manager() as manager:
    shared = manager.dict()
    worker = context.Process(target=shared.update, args=({'sum': 2},))
    worker.start()
    worker.join()
    total = shared['sum']
reading, writing = os.pipe()
os.write(writing, b'x')
total, open(f'/dev/fd/{reading}', 'rb', buffering=0).read(1)
"""


def test_what_the_guest_wrote_runs_where_a_rule_says_so(supervisor: pyisolate.Supervisor) -> None:
    """The mount of a workspace lets it run here: the programs of BPF-LSM refuse it, and each refusal is one event."""
    policy = pyisolate.Policy.preset("compute").with_workspace("8MiB").with_limits(memory=None, wall="120s")
    policy = policy.allow_read("/usr/bin/true").allow_exec("/usr/bin/true").allow_exec("/usr/bin/dash")
    with supervisor.spawn("programs", policy) as sandbox:
        assert sandbox.exec(RUN).value == 126
        told = [(event.capability, event.target, event.kernel_decision) for event in sandbox.get_denial_events()]
        assert told == [("process.exec", f"{PLACE}/tool", "deny")]
        sandbox.reload_policy(policy.allow_exec(PLACE))
        assert sandbox.exec(RUN).value == 0
        assert len(sandbox.get_denial_events()) == 1


def test_processes_of_a_workspace_reach_one_another(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").with_workspace("8MiB").allow_exec("/usr/bin/dash")
    with supervisor.spawn("processes", policy.with_limits(memory=None, wall="120s")) as sandbox:
        assert sandbox.exec(SHARED).value == (2, b"x")
        assert sandbox.get_denial_events() == []
