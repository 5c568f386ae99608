"""Each limit ends a sandbox in time, with its own exception, its event, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Literal

import msgspec
import pytest

import pyisolate
from pyisolate import Policy
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.require import require

pytestmark = [pytest.mark.usefixtures("kept_supervisor"), pytest.mark.alone]


BASE = Policy.preset("compute")


def events_of(sandbox: pyisolate.Sandbox, capability: str) -> list[pyisolate.DenialEvent]:
    return [event for event in sandbox.get_denial_events() if event.capability == capability]


def test_wall(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("wall", BASE.with_limits(wall="500ms")) as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.TimeoutError) as caught:
            sandbox.exec("while True: pass", timeout=30)
        assert time.monotonic() - started < 1.5
        assert caught.value.hint == "raise limits.wall, or make the guest do less"
        assert caught.value.limit == "wall"
        assert events_of(sandbox, "limit.wall")[0].code == "LIMIT_EXCEEDED"


def test_cpu(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("cpu", BASE.with_limits(cpu="500ms", wall="90s")) as sandbox:
        with pytest.raises(pyisolate.CPUExceeded) as caught:
            sandbox.exec("while True: pass")
        assert caught.value.used is not None
        assert 0.5 <= caught.value.used < 2, "seconds of a processor, however long it had to wait for one"
        assert events_of(sandbox, "limit.cpu")


FORGED = """
import os, stat, time
for wire in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(wire).st_mode): break
    except OSError: pass
while True:
    os.write(wire, {frame!r})
    until = time.monotonic() + 0.05
    while time.monotonic() < until: pass
"""


def test_a_forged_limit_does_not_hide_the_overrun(supervisor: pyisolate.Supervisor) -> None:
    record = {"sequence": 1, "capability": "limit.cpu", "target": "forged", "verdict": "would_deny"}
    payload = msgspec.msgpack.encode({"t": "denial", "record": {**record, "code": "LIMIT_EXCEEDED"}})
    source = FORGED.format(frame=len(payload).to_bytes(4, "big") + payload)
    with supervisor.spawn("forged", BASE.with_limits(cpu="300ms", wall="90s")) as sandbox:
        with pytest.raises(pyisolate.CPUExceeded) as caught:
            sandbox.exec(source)
        told = {event.target: event for event in events_of(sandbox, "limit.cpu")}
        assert told.pop("forged").reported_by == "guest", "the control: it was taken in"
        (event,) = told.values()
        assert (event.reported_by, event.would_deny, event.count) == ("supervisor", False, 1)
        assert caught.value.denial_event == event


FLOOD = """
import ctypes, threading
unshare = ctypes.CDLL(None).unshare
def flood(times):
    threads = [threading.Thread(target=lambda: [unshare(0x10000000) for _ in range(times)]) for _ in range(4)]
    for one in threads: one.start()
    for one in threads: one.join()
"""


def test_what_a_guest_costs_the_host_counts_as_its_own(supervisor: pyisolate.Supervisor) -> None:
    """The control: the same calls, fewer, end by themselves, and cost what can be read."""
    with supervisor.spawn("flood", with_ctypes(BASE).with_limits(cpu="400ms", wall="60s", processes=16)) as sandbox:
        sandbox.exec(FLOOD)
        sandbox.call("flood", 50)
        first = sandbox.stats
        assert first.cpu_s is not None
        assert 0 < (first.host_cpu_s or 0) < 0.4
        with pytest.raises(pyisolate.CPUExceeded, match="by the host") as caught:
            sandbox.call("flood", 1_000_000)
        stats, events = sandbox.stats, events_of(sandbox, "limit.cpu")
    told = re.search(r"([0-9.]+) s of it by the host", str(caught.value))
    used = caught.value.used
    assert told is not None
    assert used is not None
    assert used - float(told[1]) < 0.4 <= used
    assert (stats.host_cpu_s or 0) >= 0.2
    assert len(events) == 1


@pytest.mark.once
@pytest.mark.once
def test_what_puts_descriptors_into_a_guest_is_charged_to_it() -> None:
    """Without the injectors' time, a third of what the host takes for sockets is."""
    source = """
import time, pyisolate
policy = pyisolate.Policy.preset("compute").allow_connect("127.0.0.1:9").allow_import("socket")
with pyisolate.Supervisor(pool_size=0).spawn("sockets", policy) as sandbox:
    sandbox.exec("import socket")
    began, charged = time.process_time(), sandbox.stats.host_cpu_s
    sandbox.exec("for _ in range(6000): socket.socket().close()")
    print((sandbox.stats.host_cpu_s - charged) / (time.process_time() - began))
"""
    require("setpriv", shutil.which("setpriv") is not None, "no setpriv, which keeps BPF programs from deciding")
    without = ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin"]  # else programs decide, and it makes its own
    command = [*(without if os.geteuid() == 0 else []), sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.52 < float(done.stdout) < 1.1


def cpu_counted(supervisor: pyisolate.Supervisor, policy: str) -> float:
    """Return the seconds that the metrics count for sandboxes of one policy."""
    families = supervisor.recorder.metrics.registry.collect()
    found = (one for family in families for one in family.samples if "cpu" in one.name)
    return sum(one.value for one in found if one.labels.get("policy") == policy)


def test_what_closed_sandboxes_took_is_counted(supervisor: pyisolate.Supervisor) -> None:
    """Also where the init is killed first: the kernel then counts the time of its guest for no parent."""
    require("cgroup", inside.runtime(supervisor).started.cgroups is not None, "no control groups here")
    took_s, policy = 0.0, BASE.with_name("spinning")
    spin = "import time\nwhile time.process_time() < 0.1: pass\ntime.process_time()"
    for number in range(5):
        with supervisor.spawn(f"s{number}", policy) as sandbox:
            took_s += sandbox.exec(spin).value
    until = time.monotonic() + 20
    while (counted := cpu_counted(supervisor, "spinning")) < 0.8 * took_s and time.monotonic() < until:
        time.sleep(0.02)  # the last ones may not be reaped yet
    assert counted >= 0.8 * took_s


def test_a_lower_limit_of_the_hosts_is_named() -> None:
    source = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
import pyisolate
with pyisolate.Supervisor(pool_size=0).spawn("busy", limits={"cpu": "60s", "wall": "90s"}) as sandbox:
    try:
        sandbox.exec("while True: pass")
    except pyisolate.CPUExceeded as error:
        print(error.allowed, error.denial_event.capability, "ulimit" in error.hint)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "3.0 limit.cpu True\n", done.stderr


@pytest.mark.once
def test_files_that_a_lower_limit_of_the_hosts_refuses_are_events() -> None:
    """The control: a limit that the guest itself sets below that one is its own."""
    source = """
import resource
for which, most in ((resource.RLIMIT_NOFILE, 200), (resource.RLIMIT_FSIZE, 1 << 20)):
    resource.setrlimit(which, (most, most))
import pyisolate
policy = pyisolate.Policy.preset("compute")
supervisor = pyisolate.Supervisor(pool_size=0)
for own in ("", "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))"):
    with supervisor.spawn("files", policy, limits={"open_files": 500}) as sandbox:
        sandbox.exec(own)
        for caught in ("try: held = [open('/dev/null') for _ in range(500)]\\nexcept OSError: 0",
                       "held = [open('/dev/null') for _ in range(500)]"):
            try:
                sandbox.exec(caught)
            except pyisolate.OpenFilesExceeded as error:
                print(error.allowed, "ulimit" in error.hint)
            except pyisolate.GuestError as error:
                print(error.type_name)
        print({(event.capability, event.target) for event in sandbox.get_denial_events()})
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=100, check=False)
    told = "200 True\n{(<Capability.LIMIT_OPEN_FILES: 'limit.open_files'>, '200')}\nOSError\nset()\n"
    assert done.stdout == told, done.stderr


def test_cpu_is_summed_over_processes(supervisor: pyisolate.Supervisor) -> None:
    source = """
import os, time
for _ in range(3): os.fork()
while True:
    if time.process_time() > 1: os.write(1, b"one of them had it all")
"""
    with supervisor.spawn("cpu-sum", BASE.allow_fork().with_limits(cpu="1s", wall="90s")) as sandbox:
        with pytest.raises(pyisolate.CPUExceeded) as caught:
            sandbox.exec(source)
        assert caught.value.used is not None
        assert caught.value.used >= 1
        assert "had it all" not in caught.value.stdout


def test_memory(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("memory", BASE.with_limits(memory="64MiB")) as sandbox:
        with pytest.raises(pyisolate.MemoryExceeded) as caught:
            sandbox.exec("x = []\nwhile True: x.append(bytearray(4 << 20))")
        assert caught.value.allowed == 64 << 20
        assert len(events_of(sandbox, "limit.memory")) == 1


def test_memory_that_holds_no_cell_is_told_by_spawn(supervisor: pyisolate.Supervisor) -> None:
    require("cgroup", inside.runtime(supervisor).started.cgroups is not None, "no control groups here")
    # the kernel refuses the limit where the cell holds more already, or ends the cell
    with pytest.raises((pyisolate.MemoryExceeded, pyisolate.EnforcementError)):
        supervisor.spawn("tiny", BASE.with_limits(memory="16KiB"))
    with supervisor.spawn("small", BASE.with_limits(memory="16MiB")) as sandbox:  # the control
        assert sandbox.eval("1") == 1


def test_memory_is_summed_over_processes(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(memory="96MiB", wall="10s")
    hold = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: break\nx = bytearray(60 << 20)\ntime.sleep(8)"
    with supervisor.spawn("memory-sum", policy) as sandbox:
        with pytest.raises((pyisolate.MemoryExceeded, pyisolate.GuestError)):
            sandbox.exec(hold)
        assert len(events_of(sandbox, "limit.memory")) == 1


def test_processes(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(processes=8, wall="5s")
    bomb = "import os, time\nfor _ in range(100):\n    if os.fork() == 0:\n        time.sleep(30)"
    with supervisor.spawn("processes", policy) as sandbox:
        with pytest.raises(pyisolate.ProcessesExceeded):
            sandbox.exec(bomb)
        assert len(events_of(sandbox, "limit.processes")) == 1


def test_a_bomb_whose_processes_end_by_the_refusal_is_told(supervisor: pyisolate.Supervisor) -> None:
    """Nothing of it is left to be counted. A socket that does not block says the same errno, and is no limit."""
    policy = BASE.allow_fork().with_limits(processes=8)
    with supervisor.spawn("processes", policy) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="BlockingIOError"):
            sandbox.exec(
                "import os, socket\nif not os.fork(): os._exit(0)\nos.wait()\n"
                "one, other = socket.socketpair(); one.setblocking(False); one.recv(1)"
            )
        assert events_of(sandbox, "limit.processes") == []
        with pytest.raises(pyisolate.ProcessesExceeded):
            sandbox.exec("while True: os.fork()")
        assert len(events_of(sandbox, "limit.processes")) == 1


def test_threads_beyond_the_limit_are_told_once(supervisor: pyisolate.Supervisor) -> None:
    """Without a control group the guest tells of it, and the watchdog sees it a moment later."""
    threads = "import threading, time\nfor _ in range(40): threading.Thread(target=time.sleep, args=(3,)).start()"
    with supervisor.spawn("threads", BASE.with_limits(processes=8)) as sandbox:
        with pytest.raises(pyisolate.ProcessesExceeded) as caught:
            sandbox.exec(threads)
        until = time.monotonic() + 0.3
        while time.monotonic() < until and not sandbox.closed:
            time.sleep(0.02)
        (event,) = events_of(sandbox, "limit.processes")
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.event_id == event.event_id


def test_open_files(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("files", with_ctypes(BASE).with_limits(open_files=32)) as sandbox:
        with pytest.raises(pyisolate.OpenFilesExceeded):
            sandbox.exec("held = [open('/dev/null') for _ in range(100)]")
        assert events_of(sandbox, "limit.open_files")


def test_output(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("output", BASE.with_limits(output="64KiB")) as sandbox:
        started = time.monotonic()
        with pytest.raises(pyisolate.OutputExceeded) as caught:
            sandbox.exec("print('first'); print('x' * 100_000)")
        assert caught.value.stdout == ("first\n" + "x" * 100_000)[: 64 << 10]
        assert time.monotonic() - started < 2
        assert events_of(sandbox, "limit.output")


def test_messages(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("messages", BASE.with_limits(messages=10)) as sandbox:
        with pytest.raises(pyisolate.MessagesExceeded):
            sandbox.exec("while True: post(1)")
        assert [sandbox.recv(timeout=1) for _ in range(10)] == [1] * 10


def test_file_size(supervisor: pyisolate.Supervisor, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("size")
    directory.chmod(0o777)
    for parent in list(directory.parents)[:2]:  # the one above is /tmp, whose sticky bit must stay
        parent.chmod(0o755)
    policy = BASE.allow_write(str(directory)).with_limits(file_size="64KiB")
    with supervisor.spawn("size", policy) as sandbox:
        sandbox.exec(f"open({str(directory / 'small')!r}, 'wb').write(b'x' * 1000)")
        with pytest.raises(pyisolate.FileSizeExceeded):
            sandbox.exec(f"f = open({str(directory / 'large')!r}, 'wb', buffering=0)\nwhile True: f.write(b'x' * 4096)")


def test_a_guest_within_its_limits_is_left_alone(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("control", BASE.with_limits(cpu="5s", memory="128MiB")) as sandbox:
        assert sandbox.exec("x = bytearray(8 << 20); sum(range(100000))").value == 4999950000
        assert sandbox.get_denial_events() == []
        assert sandbox.stats.memory_bytes is not None


def test_an_orphan_that_outlives_its_request_is_ended_at_the_wall_limit(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_fork().with_limits(wall="700ms")
    with supervisor.spawn("orphan", policy) as sandbox:
        sandbox.exec("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)")
        assert sandbox.stats.processes == 2
        deadline = time.monotonic() + 2.0
        while sandbox.stats.processes != 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sandbox.stats.processes == 1
        assert sandbox.eval("1 + 1") == 2


#: what opens files until no more can be opened -> how it ends
FULL = {
    "caught": ("try:\n    while True: files.append(open('/dev/null'))\nexcept OSError as error: met = error.errno", 24),
    "native": ("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
               "while libc.open(b'/dev/null', 0) >= 0: pass\nmet = ctypes.get_errno()", 24),
    "ended": ("import os\ntry:\n    while True: files.append(open('/dev/null'))\nexcept OSError: os._exit(3)", None),
    "uncaught": ("while True: files.append(open('/dev/null'))", None),
    "its own hard one": ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\ntry:\n"
                         "    while True: files.append(open('/dev/null'))\nexcept OSError as error: met = 0", 0),
    "a lower one of its own": ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 64))\ntry:\n"
                               "    while True: files.append(open('/dev/null'))\nexcept OSError as error: met = 0", 0),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["enforce", "monitor"])  # limits hold in both
@pytest.mark.parametrize("how", FULL)
def test_a_full_table_of_open_files_is_one_event_whatever_the_guest_makes_of_it(
    supervisor: pyisolate.Supervisor, how: str, mode: Literal["enforce", "monitor"]
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees files that were not opened")
    source, errno_met = FULL[how]
    policy = pyisolate.Policy.preset("compute").allow_native("ctypes").allow_import("ctypes", "_ctypes", "resource")
    with supervisor.spawn("full", policy, mode=mode) as sandbox:
        try:
            assert sandbox.exec(f"files = []\n{source}\nfiles.clear()\nmet").value == errno_met
        except pyisolate.OpenFilesExceeded as error:
            raised = error.denial_event
        except pyisolate.SandboxDied:
            raised = None
        else:
            raised = None
        events = sandbox.get_denial_events()
        expected = [] if "its own" in how else [("limit.open_files", "64", "LIMIT_EXCEEDED", 1)]
        assert [(event.capability, event.target, event.code, event.count) for event in events] == expected
        assert raised is None or raised.event_id == events[0].event_id


def test_the_traceback_of_a_full_table_opens_no_sources(supervisor: pyisolate.Supervisor) -> None:
    """Each would be a refusal more, of a file that the guest never asked for."""
    require("seccomp", supervisor.diagnostics().listener, "no listener sees descriptors that were not made")
    with supervisor.spawn("full", pyisolate.Policy.preset("compute"), limits={"open_files": 32}) as sandbox:
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec("import selectors\nselectors.DefaultSelector().register('no file', 1)")
        assert "fileobj_to_fd(fileobj)" in str(caught.value.traceback)  # the control: lines of a library are shown
        with pytest.raises(pyisolate.OpenFilesExceeded):
            sandbox.exec("import asyncio\nkept = []\nwhile True: kept.append(asyncio.new_event_loop())")
        assert [(e.capability, e.count) for e in sandbox.get_denial_events()] == [("limit.open_files", 1)]


#: What makes descriptors that are no opened files; each until there is no room.
MAKING = ("os.dup(1)", "os.pipe()", "socket.socketpair()", "os.eventfd(0)", "libc.dup(1)")


@pytest.mark.parametrize("caught", [True, False])
@pytest.mark.parametrize("call", MAKING)
def test_a_full_table_of_any_descriptors_is_one_event_caught_or_not(
    supervisor: pyisolate.Supervisor, call: str, caught: bool
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees descriptors that were not made")
    policy = pyisolate.Policy.preset("compute").allow_native("ctypes").allow_import("ctypes", "_ctypes", "_socket")
    source = f"""
import ctypes, os, socket
libc, kept = ctypes.CDLL(None), []
try:
    while (made := {call}) != -1: kept.append(made)
except OSError:
    {"pass" if caught else "raise"}
finally:
    for made in kept:
        for one in made if isinstance(made, tuple) else [made]:
            one.close() if isinstance(one, socket.socket) else os.close(one)
"""
    with supervisor.spawn("full", policy, limits={"open_files": 32}) as sandbox:
        if caught or "libc" in call:
            sandbox.exec(source)
        else:
            with pytest.raises(pyisolate.OpenFilesExceeded):
                sandbox.exec(source)
        found = [(e.capability, e.target, e.code, e.count, e.reported_by) for e in sandbox.get_denial_events()]
        assert found == [("limit.open_files", "32", "LIMIT_EXCEEDED", 1, "kernel")]
        sandbox.exec("kept = [os.dup(1), *os.pipe()]")  # the control
        assert len(sandbox.get_denial_events()) == 1


@pytest.mark.parametrize("caught", [True, False])
def test_a_file_that_may_not_grow_is_one_event_caught_or_not(supervisor: pyisolate.Supervisor, caught: bool) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener takes the report")
    grow = """
import os, tempfile
file = os.open(os.path.join(tempfile.gettempdir(), "grown"), os.O_WRONLY | os.O_CREAT)
def grow(to):
    os.lseek(file, to - 1, 0)
    return os.write(file, b"x")
"""
    policy = pyisolate.Policy.preset("compute")
    with supervisor.spawn("full", policy, limits={"file_size": "64KiB"}) as sandbox:
        try:
            sandbox.exec(grow)
        except pyisolate.PolicyError:
            pytest.skip("no workspace for this user")
        assert sandbox.eval("grow(65536)") == 1  # the control
        assert sandbox.get_denial_events() == []
        if caught:
            sandbox.exec("try:\n    grow(65537)\nexcept OSError as error:\n    assert error.errno == 27")
        else:
            with pytest.raises(pyisolate.FileSizeExceeded):
                sandbox.exec("grow(65537)")
        found = [(e.capability, e.target, e.count, e.reported_by, e.syscall) for e in sandbox.get_denial_events()]
        assert found == [("limit.file_size", "65536", 1, "guest", None)]


@pytest.mark.parametrize("way", ["subprocess.run(program).returncode", "waited(subprocess.Popen(program))"])
def test_a_program_that_ends_by_the_size_of_its_file_is_one_event(supervisor: pyisolate.Supervisor, way: str) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener takes the report")
    program = ["/usr/bin/dd", "if=/dev/zero", "bs=1024", "status=none"]
    policy = pyisolate.Policy.preset("compute").allow_exec(program[0]).allow_import("subprocess")
    with supervisor.spawn("grows", policy, limits={"file_size": "64KiB"}) as sandbox:
        sandbox.exec(f"import os, subprocess\nprogram = {program!r} + [f'of={{os.getcwd()}}/grown', 'count=64']")
        sandbox.exec("def waited(made): return -os.waitid(os.P_PID, made.pid, os.WEXITED).si_status")
        assert sandbox.eval(way) == 0  # the control
        sandbox.exec("program[-1] = 'count=65'")
        assert sandbox.eval(way) == -25
        found = [(e.capability, e.target, e.count, e.reported_by) for e in sandbox.get_denial_events()]
        assert found == [("limit.file_size", "65536", 1, "guest")]


FILLS = """
import os
fd = os.open({path!r}, os.O_WRONLY | os.O_CREAT)
while True:
    os.write(fd, bytes(1 << 16))
"""


def test_what_a_guest_leaves_in_a_tmpfs_is_no_other_guests(supervisor: pyisolate.Supervisor) -> None:
    require("cgroup", inside.cgroups(supervisor) is not None, "no control groups here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        os.chmod(place, 0o777)
        hostile = BASE.allow_write(place).with_limits(memory="68MB", file_size="1GB", wall="30s")
        honest = BASE.with_limits(memory="66MB", wall="30s")
        for number in range(4):
            with supervisor.spawn(f"hostile-{number}", hostile) as sandbox, pytest.raises(pyisolate.MemoryExceeded):
                sandbox.exec(FILLS.format(path=f"{place}/{number}"))
            assert os.stat(f"{place}/{number}").st_blocks * 512 > 16 << 20, "it stays"
            for other in range(2):  # a pool has more than one group
                with supervisor.spawn(f"honest-{number}-{other}", honest) as sandbox:
                    assert sandbox.eval("len(bytearray(20_000_000))") == 20_000_000
