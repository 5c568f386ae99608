"""Everything that is not on the allow-list reaches the listener, is decided there, recorded and counted."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyisolate.capability import FLOOR, Capability
from pyisolate.decision import Mode, Verdict
from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.kernel.seccomp.enforcer import NotificationEnforcer
from pyisolate.kernel.seccomp.listener import Listener
from pyisolate.kernel.seccomp.syscalls import ALLOWED, CAPABILITY_OF
from pyisolate.native.seccomp import number_of
from pyisolate.policy.compiled import NamePattern
from pyisolate.records import Evaluation, KernelRecord
from tests.confined import cell, confined, policy
from tests.in_child import NOBODY, outcome

USERS = [None, NOBODY] if os.geteuid() == 0 else [None]

#: Calls whose refusal depends on arguments that zeros do not have, or that have a handler of their own.
_BY_VALUE = {
    "socket", "socketpair", "setsockopt", "connect", "bind", "listen", "sendto", "sendmsg", "sendmmsg",
    "clone", "clone3", "fork", "vfork", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "pidfd_send_signal", "pidfd_open", "setitimer", "alarm", "timer_create", "timer_settime", "setsid", "setpgid",
    "prlimit64", "setrlimit", "setpriority", "sched_setscheduler", "sched_setparam", "sched_setattr",
    "sched_setaffinity", "mmap", "mprotect", "pkey_mprotect", "chdir", "fchdir", "umask", "chmod", "fchmod",
    "fchmodat", "fchmodat2", "open", "openat", "openat2", "creat", "mknod", "mknodat", "close_range", "ioctl", "fcntl",
    "prctl", "arch_prctl", "getrandom", "map_shadow_stack", "capset", "get_robust_list",
}  # fmt: skip
_FREE_IN_A_CELL = {name for group in ALLOWED for name in group.calls}
_REFUSED = sorted(name for name in CAPABILITY_OF if name not in _BY_VALUE | _FREE_IN_A_CELL and number_of(name) >= 0)


@pytest.fixture(params=USERS, ids=lambda uid: f"uid={uid}")
def uid(request: pytest.FixtureRequest) -> int | None:
    return request.param


def call(name: str | int, *args: int) -> str:
    """Make a system call and return the name of its errno, or ok."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    number = number_of(name) if isinstance(name, str) else name
    padded = (*args, *(0,) * (6 - len(args)))  # else registers keep what was in them
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in padded))
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def test_every_call_of_the_refused_table_is_refused_and_named(uid: int | None) -> None:
    expected = {name: "EPERM" if CAPABILITY_OF[name] in FLOOR else "EACCES" for name in _REFUSED}
    batch = 48  # all fit into the ring: on a busy machine the drain may be later than the whole of them
    for names in (_REFUSED[at : at + batch] for at in range(0, len(_REFUSED), batch)):
        seen = confined(lambda names=names: {name: call(name) for name in names}, policy(), uid=uid)
        assert seen.value == {name: expected[name] for name in names}
        assert [(r.syscall, r.capability) for r in seen.records] == [(name, CAPABILITY_OF[name]) for name in names]
        assert {r.verdict for r in seen.records} == {Verdict.DENY}
    # the control: without the filter the kernel itself has other answers for many of them
    control = {name: call(name) for name in ("io_uring_setup", "personality", "mq_unlink", "bpf")}
    assert all(control[name] != expected[name] for name in control)


def test_by_value_conditions_refuse_and_allow(uid: int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def guest() -> object:
        here = b"/tmp/pyisolate-" + os.urandom(6).hex().encode()
        file = os.open(here, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            return {
                "TIOCSTI": call("ioctl", 0, 0x5412, 0),
                "FIONREAD": outcome(lambda: os.get_blocking(file)),
                "PDEATHSIG": call("prctl", 1, 0),
                "GET_NAME": call("prctl", 16, ctypes.addressof(ctypes.create_string_buffer(16))),
                "DUMPABLE": call("prctl", 4, 0),
                "SETLEASE": call("fcntl", file, 1024, 0),
                "GETFD": call("fcntl", file, 1),
                "set-id chmod": outcome(lambda: os.chmod(here, 0o4755)),
                "chmod": outcome(lambda: os.chmod(here, 0o755)),
                "set-id create": outcome(lambda: os.open(here + b"2", os.O_CREAT | os.O_RDWR, 0o6755)),
                "openat2": call("openat2", -100, 0, 0, 0),
                "device": outcome(lambda: os.mknod(here + b"3", 0o020600)),
                "rwx": outcome(lambda: mmap.mmap(-1, 4096, prot=7)),
                "anonymous rx": outcome(lambda: mmap.mmap(-1, 4096, prot=5)),
                "rw": outcome(lambda: mmap.mmap(-1, 4096, prot=3)),
                "memfd": outcome(lambda: os.memfd_create("m")),
                "memfd sealed": outcome(lambda: os.close(os.memfd_create("m", 8 | os.MFD_CLOEXEC))),
                "clone3": call("clone3", 0, 0),
                "unshare files": call("close_range", 9999, 9999, 2),
                "other process's limits": call("prlimit64", 4242, 7, 0, 0),
                "own limits": outcome(lambda: __import__("resource").prlimit(os.getpid(), 7)),
                "new namespace": call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
                "unknown": call(900),
                "kill": outcome(lambda: os.kill(os.getpid(), 0)),
            }
        finally:
            os.unlink(here)
            libc.close(file)

    seen = confined(guest, policy(), uid=uid)
    assert seen.value == {
        "TIOCSTI": "EPERM", "FIONREAD": "ok", "PDEATHSIG": "EPERM", "GET_NAME": "ok", "DUMPABLE": "EPERM",
        "SETLEASE": "EPERM", "GETFD": "ok", "set-id chmod": "EACCES", "chmod": "ok", "set-id create": "EACCES",
        "openat2": "ENOSYS", "device": "EACCES", "rwx": "EACCES", "anonymous rx": "EACCES", "rw": "ok",
        "memfd": "EACCES", "memfd sealed": "EACCES", "clone3": "ENOSYS", "unshare files": "EPERM",
        "other process's limits": "EPERM", "own limits": "ok", "new namespace": "EPERM", "unknown": "ENOSYS",
        "kill": "ok",
    }  # fmt: skip
    targets = {r.target for r in seen.records}
    assert {"ioctl(TIOCSTI)", "prctl(PR_SET_PDEATHSIG)", "mmap(rwx anonymous, 4096 bytes)", "syscall_900()"} <= targets


def test_processes_need_a_grant(uid: int | None) -> None:
    def fork() -> str:
        def attempt() -> None:
            if os.fork() == 0:
                os._exit(0)
            os.wait()

        return outcome(attempt)

    def run() -> str:
        return outcome(lambda: subprocess.run(["/bin/true"], check=True))

    def replace() -> str:
        return outcome(lambda: os.execv("/bin/true", ["true"]))

    refused = confined(lambda: [fork(), run(), replace()], policy(), uid=uid)
    assert refused.value == ["EACCES"] * 3
    assert refused.refusals == [
        ("process.fork", "fork", "NOT_GRANTED"),
        ("process.fork", "fork", "NOT_GRANTED"),  # vfork
        # and what subprocess falls back to
        *([("process.fork", "fork", "NOT_GRANTED")] if sys.version_info < (3, 13) else []),
        ("process.exec", "/bin/true", "NOT_GRANTED"),
    ]
    forks = confined(lambda: [fork(), run()], policy(allow_fork=True), uid=uid)
    assert forks.value == ["ok", "EACCES"]
    assert forks.refusals[0][:2] == ("process.exec", "/bin/true")
    runs = confined(lambda: [fork(), run()], policy(allow_fork=True, executes=True), uid=uid)
    assert runs.value == ["ok", "ok"]
    assert runs.refusals == []
    # children are under the same filter
    inherited = confined(
        lambda: subprocess.run(["/usr/bin/unshare", "-U", "/bin/true"], capture_output=True).returncode,
        policy(allow_fork=True, executes=True),
        uid=uid,
    )
    assert inherited.value != 0
    assert ("kernel.namespace", "ALWAYS_DENIED") in [(c, code) for c, _, code in inherited.refusals]


def test_any_native_code_may_make_executable_memory() -> None:
    anything = policy(natives=(NamePattern(name="*"),))
    seen = confined(
        lambda: [outcome(lambda: mmap.mmap(-1, 4096, prot=7)), outcome(lambda: os.memfd_create("m"))], anything
    )
    assert seen.value == ["ok", "ok"]
    assert seen.refusals == []


# mov eax, 20 (getpid, i386); int 0x80; ret / mov eax, 0x40000027 (getpid, x32); syscall; ret
_FOREIGN = {"i386": b"\xb8\x14\x00\x00\x00\xcd\x80\xc3", "x32": b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64's other system call tables")
@pytest.mark.parametrize("name", _FOREIGN)
def test_calls_of_other_architectures_fail(name: str, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.write_bytes(_FOREIGN[name].ljust(4096, b"\x90"))

    def getpid() -> int:
        with code.open("rb") as file:
            area = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        with code.open("rb") as file:
            at = libc.mmap(None, ctypes.c_size_t(4096), 5, 2, file.fileno(), ctypes.c_long(0))
        area.close()
        return ctypes.CFUNCTYPE(ctypes.c_int)(at)()

    seen = confined(getpid, policy())
    assert seen.value == -errno.ENOSYS
    number = {"i386": 20, "x32": 39}[name]
    assert seen.refusals == [("kernel.syscall", f"{name}_{number}()", "ALWAYS_DENIED")]
    if name == "i386":
        assert getpid() == os.getpid()


def test_random_is_refused_by_the_second_filter_or_by_the_listener() -> None:
    from pyisolate.native.seccomp import install

    def asked() -> str:
        return outcome(lambda: os.getrandom(4))

    assert confined(asked, policy()).value == "ok"
    program = seccomp.cell_program(random=False)
    assert confined(asked, policy(), program=program).value == "ok"
    refused = confined(asked, policy(allow_random=False), program=program)
    assert refused.value == "EACCES"
    assert [c for c, _, _ in refused.refusals] == ["random.read"]
    pid = os.fork()
    if pid == 0:
        install(seccomp.random_filter(), notify=False)
        os._exit(0 if asked() == "EPERM" and os.getpid() else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_full_telemetry_shows_files_without_deciding_about_them(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("here")

    def guest() -> object:
        os.chdir(tmp_path)
        text = Path("x").read_text()
        return text, outcome(lambda: open(f"{tmp_path}/none")), outcome(lambda: os.chmod("x", 0o4700))

    seen = confined(guest, policy(), full=True)
    assert seen.value == ["here", "ENOENT", "EACCES"]
    found = [(r.capability, r.target, r.verdict) for r in seen.records]
    assert (Capability.FS_READ, f"{tmp_path}/x", Verdict.ALLOW) in found
    assert (Capability.FS_READ, f"{tmp_path}/none", Verdict.ALLOW) in found
    assert found[-1] == (Capability.FS_METADATA, f"{tmp_path}/x", Verdict.DENY)
    assert confined(guest, policy()).value == ["here", "ENOENT", "EACCES"]


def test_monitor_mode_records_but_the_floor_stands() -> None:
    seen = confined(lambda: [outcome(lambda: mmap.mmap(-1, 4096, prot=7)), call("bpf")], policy(mode=Mode.MONITOR))
    assert seen.value == ["ok", "EPERM"]
    assert [r.verdict for r in seen.records] == [Verdict.WOULD_DENY, Verdict.DENY]


def test_counters_stay_exact_when_records_are_lost() -> None:
    rounds = 20_000

    def guest() -> object:
        libc = ctypes.CDLL(None, use_errno=True)
        for i in range(rounds):
            libc.syscall(number_of("bpf"), i)  # another argument each time: nothing to coalesce
        for _ in range(rounds):
            libc.syscall(number_of("keyctl"), 0)
        return None

    seen = confined(guest, policy())
    assert seen.counters[Capability.KERNEL_BPF, Verdict.DENY] == rounds
    assert seen.counters[Capability.KERNEL_KEYS, Verdict.DENY] == rounds
    named = [record for record in seen.records if record.evaluation is Evaluation.ENFORCED]
    assert sum(r.count for r in named) + seen.lost == 2 * rounds
    assert sum(r.count for r in named if r.capability is Capability.KERNEL_KEYS) > rounds / 2
    assert named[-1].capability is Capability.KERNEL_KEYS
    assert sum(r.count for r in seen.records) == 2 * rounds  # the lost ones are told as counts


@pytest.mark.parametrize("names", [700, 2000])
def test_names_that_are_nowhere_take_no_other_place_and_what_is_not_looked_into_is_counted(names: int) -> None:
    records: list[KernelRecord] = []
    read_end, write_end = os.pipe()

    def guest() -> object:
        libc = ctypes.CDLL(None, use_errno=True)
        for i in range(names):
            libc.syscall(number_of("faccessat"), -100, b"/nowhere/%d" % i, 0, 0)
        libc.syscall(number_of("bpf"), 0)
        os.write(write_end, b".")
        return None

    def slow(record: KernelRecord) -> None:  # reads nothing more until the guest is done
        if not records:
            assert select.select([read_end], [], [], 60)[0]
        records.append(record)

    listener = Listener(slow)
    listener.start()
    try:
        with cell(guest, policy(), listener=listener, full=True) as wait:
            wait()
            listener.emit_uncounted("cell", 0)
            lost = listener.lost("cell")
    finally:
        listener.close()
        os.close(read_end)
        os.close(write_end)
    looked = [record for record in records if record.target.startswith("/nowhere/")]
    counted = [(r.capability, r.verdict, r.count) for r in records if r.evaluation is Evaluation.COUNTED]
    assert [record.capability for record in records if record.verdict is Verdict.DENY] == [Capability.KERNEL_BPF]
    assert len(looked) + lost == names
    assert (lost > 0) == (names == 2000)
    assert counted == ([(Capability.FS_LOOKUP, Verdict.ALLOW, lost)] if lost else [])


def test_a_warm_cell_continues_until_it_is_bound_and_a_reload_changes_the_decision() -> None:
    records: list[KernelRecord] = []
    listener = Listener(records.append)
    listener.start()
    turn_read, turn_write = os.pipe()
    done_read, done_write = os.pipe()

    def guest() -> object:
        said = []
        for _ in range(3):
            os.read(turn_read, 1)
            said.append(outcome(lambda: mmap.mmap(-1, 4096, prot=7)))
            os.write(done_write, b".")
        return said

    def take_turn() -> None:
        os.write(turn_write, b".")
        os.read(done_read, 1)

    original, listener.attach = listener.attach, lambda fd, name, *_, **__: listener.attach_warm(fd, "warm")  # type: ignore[method-assign]
    try:
        with cell(guest, policy(), listener=listener, name="box") as value:
            take_turn()
            assert listener.counters("warm") == {}
            listener.bind("warm", "box", policy())
            take_turn()
            listener.update("box", policy(natives=(NamePattern(name="*"),)))
            take_turn()
            assert value() == ["ok", "EACCES", "ok"]
            assert [r.sandbox_id for r in records] == ["box"]
            with pytest.raises(KeyError):
                listener.bind("warm", "box", policy())
        del original
    finally:
        listener.close()
        for fd in (turn_read, turn_write, done_read, done_write):
            os.close(fd)


def test_a_record_is_there_before_the_refusal_is_seen() -> None:
    records: list[KernelRecord] = []
    listener = Listener(records.append)
    listener.start()
    reader, writer = os.pipe()

    def guest() -> None:
        call("bpf", 7)
        os.write(writer, b".")
        time.sleep(5)

    try:
        with cell(guest, policy(), listener=listener):
            os.read(reader, 1)
            listener.drain_now("cell")
            assert [r.target for r in records] == ["bpf(command 7)"]
    finally:
        listener.close()
        os.close(reader)
        os.close(writer)


def test_one_that_asks_without_pause_does_not_starve_another() -> None:
    listener = Listener(lambda record: None)
    listener.start()

    def spam() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        threads = [
            threading.Thread(target=lambda: [libc.syscall(number_of("bpf"), i) for i in range(10**9)]) for _ in range(7)
        ]
        for thread in threads:
            thread.start()
        for i in range(10**9):
            libc.syscall(number_of("bpf"), i)

    def polite() -> float:
        worst = 0.0
        for _ in range(200):
            started = time.monotonic()
            call("bpf")
            worst = max(worst, time.monotonic() - started)
        return worst

    try:
        with cell(spam, policy(), listener=listener, name="spam"):
            while listener.counters("spam").get((Capability.KERNEL_BPF, Verdict.DENY), 0) < 200:
                time.sleep(0.01)  # the control: it is at it
            with cell(polite, policy(), listener=listener, name="polite") as value:
                assert value() < 1.0
    finally:
        listener.close()


def test_without_its_listener_a_cell_is_closed_not_open() -> None:
    reader, writer = os.pipe()
    answer_read, answer_write = os.pipe()

    def guest() -> None:
        os.read(reader, 1)
        os.write(answer_write, f"{call('bpf')} {outcome(lambda: mmap.mmap(-1, 4096, prot=7))}".encode())
        time.sleep(5)

    listener = Listener(lambda record: None)
    listener.start()
    with cell(guest, policy(natives=(NamePattern(name="*"),)), listener=listener):
        listener.close()
        os.write(writer, b".")
        assert os.read(answer_read, 100) == b"ENOSYS ENOSYS"
    for fd in (reader, writer, answer_read, answer_write):
        os.close(fd)


def test_a_forked_host_child_holds_no_listener_open_and_cannot_use_it() -> None:
    listener = Listener(lambda record: None)
    listener.start()
    try:
        with cell(lambda: time.sleep(5), policy(), listener=listener):
            pid = os.fork()
            if pid == 0:
                held = [
                    os.readlink(f"/proc/self/fd/{fd}")
                    for fd in os.listdir("/proc/self/fd")
                    if int(fd) > 2 and os.path.islink(f"/proc/self/fd/{fd}")
                ]
                clean = not any("seccomp" in name for name in held) and not listener.alive
                listener.close()
                listener.drain_now("cell")
                os._exit(0 if clean and not listener.counters("cell") else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert listener.alive
    finally:
        listener.close()


def test_a_hundred_cells_share_one_listener() -> None:
    records: list[KernelRecord] = []
    listener = Listener(records.append)
    listener.start()
    reader, writer = os.pipe()

    def guest() -> str:
        os.read(reader, 1)
        return call("bpf")

    from contextlib import ExitStack

    try:
        with ExitStack() as stack:
            values = [
                stack.enter_context(cell(guest, policy(), listener=listener, name=f"cell{i}", namespaced=False))
                for i in range(100)
            ]
            os.write(writer, b"." * 100)
            assert [value() for value in values] == ["EPERM"] * 100
            assert sorted(r.sandbox_id for r in records) == sorted(f"cell{i}" for i in range(100))
    finally:
        listener.close()
        os.close(reader)
        os.close(writer)


def test_the_probe_sees_a_denial_and_can_be_told_that_there_is_none() -> None:
    found = NotificationEnforcer().probe()
    assert found.usable, found
    assert "refused" in found.proof
    missing = NotificationEnforcer(simulate_missing=True).probe()
    assert not missing.usable
    assert missing.remedy


def test_python_itself_is_at_home_under_the_filter() -> None:
    program = Path(__file__).with_name("under_filter.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["threads", "ctypes", "asyncio", "sqlite", "numpy", "pandas", "refused"]
