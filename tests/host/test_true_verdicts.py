"""Refusals that no policy rule speaks of leave exactly one true event: the same in enforce and in monitor mode."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import DenialEvent, Policy, Sandbox
from pyisolate.choices import Enforcement, Isolation
from pyisolate.decision import DenialCode, Verdict
from tests.require import require

PRELUDE = """
import ctypes, errno, os, resource, socket, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def native(function, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if function(*arguments) < 0 else 0
def caught(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as started:
        with made(started, "enforce", net=[{"connect": "127.0.0.1:1"}]):
            pass  # the cells of the host's network have a zygote of their own, which stays
        yield started


@pytest.fixture(params=["enforce", "monitor"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ground() -> Iterator[Path]:
    here = Path("/tmp") / f"pyisolate-truth-{os.urandom(6).hex()}"
    here.mkdir(mode=0o777)
    here.chmod(0o777)
    yield here
    for file in here.iterdir():
        file.unlink()
    here.rmdir()


def made(
    supervisor: pyisolate.Supervisor,
    mode: str,
    ground: Path | None = None,
    isolation: Isolation = "process",
    **rest: object,
) -> Sandbox:
    files = [] if ground is None else [{"path": str(ground), "allow": ["read", "write", "create", "metadata"]}]
    policy = {
        "version": 1,
        "name": "truth",
        "extends": "compute",
        "mode": mode,
        "fs": files,
        "import": {"allow": ["*"], "native": ["*"]},
        **{name.rstrip("_"): value for name, value in rest.items()},
    }
    enforcement: Enforcement = "strict" if isolation == "process" else "best_effort"  # limits are of a process
    return supervisor.spawn("truth", Policy.from_dict(policy), isolation=isolation, enforcement=enforcement)


def run(sandbox: Sandbox, source: str, **values: object) -> tuple[object, list[DenialEvent]]:
    before = len(sandbox.get_denial_events())
    value = sandbox.exec(PRELUDE + source.format(**values)).value
    return value, sandbox.get_denial_events()[before:]


#: what the call asks for -> (code, capability, errno); the control is the last line of the test
BEYOND = {
    "kill": ("caught(os.kill, 99999, 15)", "process.signal", Verdict.UNAVAILABLE),
    "kill, native": ("native(libc.kill, 99999, 15)", "process.signal", Verdict.NOT_CONSULTED),
    "a group": ("native(libc.kill, -99999, 15)", "process.signal", Verdict.NOT_CONSULTED),
    "pidfd_open": ("caught(os.pidfd_open, 99999)", "process.signal", Verdict.NOT_CONSULTED),
    "setpriority": ("caught(os.setpriority, os.PRIO_PROCESS, 99999, 19)", "process.trace", Verdict.NOT_CONSULTED),
    "affinity": ("caught(os.sched_setaffinity, 99999, {{0}})", "process.trace", Verdict.NOT_CONSULTED),
}


def _translates_numbers() -> bool:
    return tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 11)


@pytest.mark.parametrize("what", BEYOND)
def test_a_number_that_names_no_task_of_the_cell_is_recorded_as_asked(
    supervisor: pyisolate.Supervisor, mode: str, what: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    if not _translates_numbers():
        pytest.skip("the kernel translates process numbers from 6.11 on")
    code, capability, broker = BEYOND[what]
    with made(supervisor, mode) as sandbox:
        value, events = run(sandbox, code)
        assert value == errno.ESRCH
        (event,) = events
        assert (event.capability, event.code, event.kernel_errno) == (
            capability,
            DenialCode.ALWAYS_DENIED,
            errno.ESRCH,
        )
        assert (event.broker_decision, event.kernel_decision) == (broker, Verdict.DENY)
        assert "99999" in event.target
        # the control: its own numbers work, and leave nothing
        own = "(caught(os.kill, os.getpid(), 0), native(libc.kill, os.getpid(), 0), caught(os.sched_setaffinity, "
        value, events = run(sandbox, own + "os.getpid(), os.sched_getaffinity(0)))")
        assert value == (0, 0, 0)
        assert events == []


#: -> (code, capability, errno): what belongs to the init, and what takes a capability
ABOVE = {
    "the init, native": ("native(libc.kill, 1, 9)", "process.signal", errno.EPERM),
    "a thread of the init": ("native(libc.syscall, 234, 1, 1, 9)", "process.signal", errno.EPERM),
    "the init by descriptor": ("caught(os.pidfd_open, 1)", "process.signal", errno.EPERM),
    "priority of the init": ("caught(os.setpriority, os.PRIO_PROCESS, 1, 19)", "process.trace", errno.EPERM),
    "affinity of the init": ("caught(os.sched_setaffinity, 1, {{0}})", "process.trace", errno.EPERM),
    "a higher priority": ("caught(os.setpriority, os.PRIO_PROCESS, 0, -5)", "kernel.capability", errno.EACCES),
    "a higher priority, nice": ("caught(os.nice, -5)", "kernel.capability", errno.EACCES),
    "real time": (
        "caught(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))", "kernel.capability", errno.EPERM
    ),
    "capset": (
        "native(libc.capset, struct.pack('II', 0x20080522, 0), struct.pack('6I', 1, 1, 0, 0, 0, 0))",
        "kernel.capability", errno.EPERM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ABOVE)
def test_what_is_above_a_guest_is_refused_with_its_event(
    supervisor: pyisolate.Supervisor, mode: str, what: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    code, capability, number = ABOVE[what]
    with made(supervisor, mode) as sandbox:
        value, events = run(sandbox, "import struct\n" + code)
        assert value == number or (what.endswith("nice") and value in (errno.EPERM, errno.EACCES))  # nice(3) turns it
        assert [(event.capability, event.code, event.kernel_errno, event.count) for event in events] == [
            (capability, DenialCode.ALWAYS_DENIED, number, 1)
        ]
        # the control: a lower priority, a class without one, no capability at all; and it leaves nothing
        value, events = run(
            sandbox,
            "import struct\n(caught(os.setpriority, os.PRIO_PROCESS, 0, 19), caught(os.sched_setscheduler, 0, "
            "os.SCHED_BATCH, os.sched_param(0)), native(libc.capset, struct.pack('II', 0x20080522, 0), bytes(24)))",
        )
        assert value == (0, 0, 0)
        assert events == []


@pytest.mark.parametrize("number", [3, 200, 1000])
def test_a_small_number_that_names_no_task_is_recorded_too(supervisor: pyisolate.Supervisor, number: int) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    if not _translates_numbers():
        pytest.skip("the kernel translates process numbers from 6.11 on")
    with made(supervisor, "enforce") as sandbox:
        value, events = run(sandbox, f"native(libc.kill, {number}, 0)")
        assert value == errno.ESRCH
        assert [event.target for event in events] == [f"kill({number}, signal 0)"]


SET_ID = {
    "chmod": ("open('{ground}/a', 'w').close(); ", "caught(os.chmod, '{ground}/a', {mode})", "fs.metadata"),
    "chmod, native": ("open('{ground}/a', 'w').close(); ", "native(libc.chmod, b'{ground}/a', {mode})", "fs.metadata"),
    "fchmod, native": ("f = open('{ground}/a', 'w'); ", "native(libc.fchmod, f.fileno(), {mode})", "fs.metadata"),
    "open": ("", "caught(os.open, '{ground}/b', os.O_CREAT | os.O_RDWR, {mode})", "fs.create"),
}


@pytest.mark.parametrize("what", SET_ID)
def test_set_id_bits_are_refused_once_in_every_mode(
    supervisor: pyisolate.Supervisor, mode: str, what: str, ground: Path
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    first, code, capability = SET_ID[what]
    with made(supervisor, mode, ground) as sandbox:
        value, events = run(sandbox, first + "\n" + code, ground=ground, mode=0o4755)
        assert value == errno.EACCES
        (event,) = events
        assert (event.capability, event.code) == (capability, DenialCode.ALWAYS_DENIED)
        said = {
            "chmod": (Verdict.DENY, Verdict.NOT_REACHED),
            "open": (Verdict.ALLOW, Verdict.DENY),
        }  # modes are in no event
        assert (event.broker_decision, event.kernel_decision) == said.get(what, (Verdict.NOT_CONSULTED, Verdict.DENY))
        assert event.target.startswith(str(ground))
        assert not any(file.stat().st_mode & 0o6000 for file in ground.iterdir())
        value, events = run(sandbox, first + "\n" + code, ground=ground, mode=0o755)  # the control
        assert (value, events) == (0, [])


@pytest.mark.parametrize("call", ["os.mknod, {0!r}, 0o20600, os.makedev(1, 3)", "os.mknod, {0!r}, 0o140600"])
def test_devices_and_unbound_sockets_are_refused_once(
    supervisor: pyisolate.Supervisor, mode: str, ground: Path, call: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    with made(supervisor, mode, ground) as sandbox:
        value, events = run(sandbox, f"caught({call.format(name := str(ground / 'special'))})", ground=ground)
        assert value == errno.EACCES
        assert [(e.capability, e.target, e.code, e.kernel_decision, e.suggestion) for e in events] == [
            ("fs.create", name, DenialCode.ALWAYS_DENIED, Verdict.NOT_REACHED, None)
        ]
        value, events = run(sandbox, "caught(os.mkfifo, '{ground}/pipe')", ground=ground)  # the control
        assert (value, events) == (0, [])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names x86-64's system calls")
@pytest.mark.parametrize(
    ("code", "wanted", "capability", "target"),
    [
        ("libc.syscall, 0x40000027", errno.ENOSYS, "kernel.syscall", "x32_39()"),
        (
            "libc.syscall, 437, -100, b'/etc/shadow', (ctypes.c_uint64 * 3)(), 24",
            errno.ENOSYS,
            "fs.read",
            "/etc/shadow",
        ),
        (
            "libc.syscall, 435, (ctypes.c_uint64 * 8)(0x20000000), 64",
            errno.EPERM,
            "kernel.namespace",
            "clone3(flags 0x20000000)",
        ),
    ],
    ids=["x32", "openat2", "clone3"],
)
def test_calls_that_no_filter_can_judge_are_recorded(
    supervisor: pyisolate.Supervisor, mode: str, code: str, wanted: int, capability: str, target: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    with made(supervisor, mode) as sandbox:
        value, events = run(sandbox, f"native({code})")
        assert value == wanted
        assert [(e.capability, e.target, e.code, e.kernel_decision, e.broker_decision) for e in events] == [
            (capability, target, DenialCode.ALWAYS_DENIED, Verdict.DENY, Verdict.NOT_CONSULTED)
        ]
        # the control: a thread starts by clone3 and its fallback, and leaves nothing
        value, events = run(sandbox, "t = threading.Thread(target=int)\nt.start()\nt.join()\nnative(libc.getpid)")
        assert (value, events) == (0, [])


#: library functions that import what their caller names; what they import beside it is their own affair
CARRYING = ("runpy.run_module('{}')", "pkgutil.resolve_name('{}')", "pydoc.render_doc('{}')",
            "importlib.resources.files('{}')", "logging.config.DictConfigurator({{}}).resolve('{}.x')",
            "t = threading.Thread(target=importlib.import_module, args=('{}',)); t.start(); t.join()")  # fmt: skip


@pytest.mark.once
def test_what_library_code_imports_for_a_guest_is_asked_about(supervisor: pyisolate.Supervisor) -> None:
    allowed = ["runpy", "pkgutil", "pydoc", "importlib", "logging", "ctypes", "_ctypes", "json", "threading"]
    imports = {"allow": allowed, "native": ["ctypes"]}
    start = "import runpy, pkgutil, pydoc, importlib.resources, logging.config, threading\n"
    start += "try:\n {}\nexcept Exception: pass"
    with made(supervisor, "enforce", import_=imports) as sandbox:
        for call in CARRYING:
            for module, told in (("click", [("import.module", "click", Verdict.DENY)]), ("json", [])):
                before = len(sandbox.get_denial_events())
                sandbox.exec(start.format(call.format(module)))
                events = sandbox.get_denial_events()[before:]
                assert [(e.capability, e.target, e.broker_decision) for e in events] == told, (call, module)
                for event in events:
                    assert event.suggestion, call
                    # of the thread no frame is the guest's
                    assert event.origin or "Thread(" in call, call


def test_memory_files_are_refused_by_one_code_where_some_native_code_is_granted(
    supervisor: pyisolate.Supervisor,
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    code = "native(libc.memfd_create, b'x', 0)"
    with made(supervisor, "enforce", import_={"allow": ["*"], "native": ["_ctypes"]}) as sandbox:
        value, events = run(sandbox, code)
        assert value == errno.EACCES
        assert [(e.capability, e.code) for e in events] == [("import.native", DenialCode.SCOPE_INSUFFICIENT)]
        assert "grants no" not in events[0].kernel_reason
    with made(supervisor, "enforce") as sandbox:  # the control
        assert run(sandbox, code) == (0, [])


def test_a_process_by_clone3_is_refused_as_one_by_clone_is(supervisor: pyisolate.Supervisor) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    code = "native(libc.syscall, 435, (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17), 64)"
    with made(supervisor, "enforce") as sandbox:
        value, events = run(sandbox, code)
        assert value == errno.EACCES
        assert [(e.capability, e.target, e.code) for e in events] == [("process.fork", "fork", DenialCode.NOT_GRANTED)]
    with made(supervisor, "monitor") as sandbox:  # its flags are in memory: it does not go on there either
        value, (event,) = run(sandbox, code)
        assert (value, event.capability, event.target) == (errno.ENOSYS, "process.fork", "fork")
        assert (event.kernel_decision, event.would_deny) == ("deny", False)
    with made(supervisor, "enforce", process=[{"fork": True}]) as sandbox:  # the control: as where clone3 is unknown
        assert run(sandbox, code) == (errno.ENOSYS, [])


def test_an_ipv4_address_in_ipv6_is_named_once(supervisor: pyisolate.Supervisor, mode: str) -> None:
    code = "s = socket.socket(socket.AF_INET6)\ns.settimeout(0.2)\ntry: s.connect(('::ffff:127.0.0.1', 9))\n"
    code += "except Exception: pass\nNone"
    with made(supervisor, mode, net=[{"connect": "127.0.0.1:1"}]) as sandbox:
        _, events = run(sandbox, code)
        assert [(e.capability, e.target) for e in events] == [("net.connect", "127.0.0.1:9")]
        _, events = run(sandbox, code.replace(", 9", ", 1"))  # the control
        assert events == []


@pytest.mark.parametrize("open_in_host", [0, 300])
def test_another_emfile_is_not_the_limit_of_open_files(open_in_host: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(open_in_host):  # the zygote is given descriptors above these
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        started = stack.enter_context(pyisolate.Supervisor(pool_size=1))
        sandbox = stack.enter_context(made(started, "monitor", limits={"open_files": 256}))
        with pytest.raises(pyisolate.GuestError, match="mq"):
            run(sandbox, "(None for _ in ()).throw(OSError(errno.EMFILE, 'mq'))")  # no `raise` of its own
        assert [e for e in sandbox.get_denial_events() if e.capability == "limit.open_files"] == []
        with pytest.raises(pyisolate.OpenFilesExceeded):  # the control
            run(sandbox, "kept = []\nwhile True: kept.append(os.dup(1))")
        assert [e.capability for e in sandbox.get_denial_events()] == ["limit.open_files"]


THREADS = """
stop, count = threading.Event(), 0
try:
    for count in range(60):
        threading.Thread(target=stop.wait, daemon=True).start()
except RuntimeError:
    pass
stop.set()
"""


@pytest.mark.parametrize("ending", ["count", "os._exit(0)"])
def test_refused_threads_are_an_event_though_the_guest_caught_it(supervisor: pyisolate.Supervisor, ending: str) -> None:
    require("cgroup", supervisor.diagnostics().control_groups is not None, "nothing counts refused threads")
    with made(supervisor, "enforce", limits={"processes": 20}) as sandbox:
        with contextlib.suppress(pyisolate.SandboxDied, pyisolate.ProcessesExceeded):
            run(sandbox, THREADS + ending)
        events = [e for e in sandbox.get_denial_events() if e.capability == "limit.processes"]
        assert [(e.target, e.code) for e in events] == [("20", DenialCode.LIMIT_EXCEEDED)]
    with made(supervisor, "enforce", limits={"processes": 100}) as sandbox:  # the control
        assert run(sandbox, THREADS + "count")[0] == 59
        assert [e for e in sandbox.get_denial_events() if e.capability == "limit.processes"] == []


@pytest.mark.parametrize(
    ("resource", "capability"),
    [("NOFILE", "limit.open_files"), ("FSIZE", "limit.file_size"), ("CORE", "kernel.capability")],
)
def test_raising_a_hard_limit_is_recorded(
    supervisor: pyisolate.Supervisor, mode: str, resource: str, capability: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    attempt = f"""
def attempt(soft, hard):
    try:
        resource.setrlimit(resource.RLIMIT_{resource}, (soft, hard))
    except (OSError, ValueError) as error:
        return str(error)
hard = resource.getrlimit(resource.RLIMIT_{resource})[1]
"""
    with made(supervisor, mode, limits={"open_files": 64, "file_size": "1MiB"}) as sandbox:
        value, events = run(sandbox, attempt + "attempt(hard, hard + 1)")
        assert value == "not allowed to raise maximum limit"
        assert [(e.capability, e.code, e.kernel_decision, e.kernel_errno) for e in events] == [
            (capability, DenialCode.ALWAYS_DENIED, Verdict.DENY, errno.EPERM)
        ]
        # the control: within it, and lower
        assert run(sandbox, attempt + "(attempt(0, hard), attempt(hard, hard), attempt(0, hard // 2))") == (
            (None, None, None),
            [],
        )


def test_a_group_of_nobody_is_told_where_the_guest_may_fork(supervisor: pyisolate.Supervisor, mode: str) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    with made(supervisor, mode, process=[{"fork": True}]) as sandbox:
        for code, target in (("caught(os.kill, -1, 9)", "kill(-1"), ("native(libc.killpg, 4242, 9)", "kill(-4242")):
            value, events = run(sandbox, code)
            if not events:
                require(
                    "children", os.path.exists(f"/proc/self/task/{os.getpid()}/children"), "no kernel tells of them"
                )
            assert value == errno.ESRCH
            assert [(str(one.capability), one.code, one.kernel_errno) for one in events] == [
                ("process.signal", DenialCode.ALWAYS_DENIED, errno.ESRCH)
            ]
            assert events[0].target.startswith(target)
            assert ("no other process" in events[0].kernel_reason) is (target == "kill(-1"), "which has no number"
        # the control: who is there is reached: a child, its group when it has ended and left one, and the own group
        value, events = run(sandbox, REACHED)
        assert (value, events) == ((9, 0, 0), [])


def test_not_all_threads_of_a_guest_are_looked_at_for_its_groups(supervisor: pyisolate.Supervisor) -> None:
    """Other guests' calls wait meanwhile. What is not known goes on, and reaches nobody outside of the cell."""
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    require("children", os.path.exists(f"/proc/self/task/{os.getpid()}/children"), "no kernel tells of them")
    many = """
import threading
threading.stack_size(1 << 16)  # address space is an ordinary user's limit of memory
ended = threading.Event()
threads = [threading.Thread(target=ended.wait) for _ in range(70)]
for thread in threads: thread.start()
number = native(libc.killpg, 4242, 9)
ended.set()
for thread in threads: thread.join()
number
"""
    with made(supervisor, "enforce", process=[{"fork": True}], limits={"processes": 100}) as sandbox:
        assert run(sandbox, many) == (errno.ESRCH, [])
        assert len(run(sandbox, "native(libc.killpg, 4242, 9)")[1]) == 1  # the control: of one thread it is known


REACHED = """
import time
def child(work):
    started = os.pipe()
    if not (number := os.fork()):
        os.setpgid(0, 0)
        work()
        os.write(started[1], b"x")
        time.sleep(9)
        os._exit(0)
    os.read(started[0], 1)
    return number
first = child(lambda: None)
os.kill(-1, 9)
status = os.waitpid(first, 0)[1]
second = child(lambda: os.fork() and os._exit(0))
os.waitpid(second, 0)
(status, caught(os.killpg, second, 9), caught(os.killpg, 0, 0))
"""


def test_a_script_whose_interpreter_is_not_granted_names_it(
    supervisor: pyisolate.Supervisor, mode: str, ground: Path
) -> None:
    script = ground / "script"
    script.write_text("#! /bin/cat -n\n")
    script.chmod(0o755)
    run_it = f"import subprocess\ntry: subprocess.run([{str(script)!r}], capture_output=True)\nexcept OSError: pass"
    granted = [{"exec": str(script)}, {"fork": True}]
    with made(supervisor, mode, process=granted) as sandbox:
        (event,) = sandbox.exec(run_it).denials
        target, verdict = os.path.realpath("/bin/cat"), "deny" if mode == "enforce" else "would_deny"
        assert (str(event.capability), event.target, str(event.kernel_decision)) == ("process.exec", target, verdict)
        assert str(script) in event.kernel_reason
        assert event.suggestion == {"process": [{"exec": target}]}
    with made(supervisor, mode, ground, process=[*granted, {"exec": "/bin/cat"}]) as sandbox:  # the control
        assert sandbox.exec(run_it).denials == ()


def test_native_code_asks_for_a_program_that_is_not_there(supervisor: pyisolate.Supervisor, mode: str) -> None:
    with made(supervisor, mode) as sandbox:
        _, (event,) = run(sandbox, "native(libc.execv, b'/no/such/program', None)")
        verdict = "deny" if mode == "enforce" else "would_deny"
        recorded = str(event.capability), event.target, str(event.kernel_decision)
        assert recorded == ("process.exec", "/no/such/program", verdict)


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("net", [{"connect": "127.0.0.1:1"}, {"bind": "127.0.0.1:1"}], ids=["programs", "listener"])
def test_a_probed_verdict_names_who_would_have_decided(
    supervisor: pyisolate.Supervisor, net: dict[str, str], isolation: Isolation
) -> None:
    """Tables that decide nothing here are not asked, however alike they are."""
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    with made(supervisor, "enforce", net=[net], isolation=isolation) as sandbox:
        bind = "with socket.socket() as bound:\n    refused = caught(bound.bind, ('127.0.0.1', 2))\n"
        rest = "(refused, caught(socket.create_connection, ('127.0.0.1', 2)), caught(open, '/etc/shadow'))"
        value, events = run(sandbox, bind + rest)
        by = {line.capability.value: line.enforcers for line in sandbox.enforcement.capabilities}
    assert value == (errno.EACCES,) * 3
    programs = "cgroup-bpf" in by["net.connect"]
    assert not programs or "connect" in net  # the control: where the report says so, they decide
    assert [(e.capability.value, e.broker_decision, e.kernel_decision, e.kernel_enforcer) for e in events] == [
        ("net.bind", Verdict.DENY, Verdict.DENY, "seccomp-notify"),
        ("net.connect", Verdict.DENY, Verdict.DENY, "cgroup-bpf" if programs else "seccomp-notify"),
        ("fs.read", Verdict.DENY, Verdict.DENY, "bpf-lsm")
        if "bpf-lsm" in by["fs.read"]
        else ("fs.read", Verdict.DENY, Verdict.NOT_REACHED, None),
    ]
