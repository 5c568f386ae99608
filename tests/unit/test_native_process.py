"""Process set-up calls that need no privilege."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyisolate.native import process, seccomp
from pyisolate.native.result import check


def child(function) -> int:
    """Run `function` in a clone; return its exit status (0 when it returns, 99 when it raises)."""
    pid, pidfd = process.clone_cell(0)
    if pid == 0:
        status = 99
        try:
            status = function() or 0
        finally:
            os._exit(status)
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status
    finally:
        os.close(pidfd)


def test_the_clone_is_a_python_fork_with_a_pidfd():
    seen = []
    os.register_at_fork(after_in_child=lambda: seen.append("child"))
    assert child(lambda: 7 if seen == ["child"] and threading.active_count() == 1 else 1) == 7
    assert seen == []


def test_the_childs_threads_work_and_know_their_id():
    def body():
        results = []
        thread = threading.Thread(target=lambda: results.append(threading.get_native_id()))
        thread.start()
        thread.join()
        return 0 if results and results[0] != os.getpid() == threading.get_native_id() else 1

    assert child(body) == 0


def test_a_refused_clone_raises_in_the_parent_and_leaves_the_gil_usable():
    with pytest.raises(OSError, match=r"clone3 flags 0xdead.*: "):
        process.clone_cell(0xDEAD0000000000)
    assert child(lambda: 3) == 3


def test_exit_raises_sigchld():
    received = []
    old = signal.signal(signal.SIGCHLD, lambda number, frame: received.append(number))
    try:
        child(lambda: 0)
    finally:
        signal.signal(signal.SIGCHLD, old)
    assert received == [signal.SIGCHLD]


def test_everything_but_the_kept_descriptors_is_closed():
    reader, writer = os.pipe()
    extra = [os.dup(reader) for _ in range(5)]

    def body():
        process.close_all_except([2, writer, extra[2]])
        open_now = []
        for fd in range(64):
            try:
                os.fstat(fd)
            except OSError:
                continue
            open_now.append(fd)
        return 0 if open_now == sorted([2, writer, extra[2]]) else 1

    try:
        assert child(body) == 0
    finally:
        for fd in (reader, writer, *extra):
            os.close(fd)


def test_no_new_privs_holds_once_set():
    def body():
        before = process.get_no_new_privs()
        process.set_no_new_privs()
        return 0 if (before, process.get_no_new_privs()) == (BEFORE, True) else 1

    BEFORE = process.get_no_new_privs()
    assert child(body) == 0
    assert process.get_no_new_privs() == BEFORE


def confinement_after(change) -> bytes:
    """Return what confines a thread of its own that has called `change`; of this process no other thread changes."""
    said: list[bytes] = []
    thread = threading.Thread(target=lambda: (change(), said.append(process.own_confinement())))
    thread.start()
    thread.join()
    return said[0]


def raw(call: str, *numbers: int) -> None:
    """Make a system call for the calling thread alone; the C library's functions would do it for all."""
    check(-(ctypes.CDLL(None).syscall(seccomp.number_of(call), *numbers) < 0), call)


def test_threads_that_are_confined_alike_say_the_same_and_others_do_not():
    if not (own := process.own_confinement()):
        pytest.skip("a filter confines this process")
    assert confinement_after(lambda: None) == own
    nothing = seccomp.compile_filter(seccomp.FilterSpec((), seccomp.ALLOW, seccomp.ALLOW))
    assert confinement_after(lambda: seccomp.install(nothing, notify=False)) == b""
    assert process.get_no_new_privs() or confinement_after(process.set_no_new_privs) != own


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: users, groups and capabilities of a thread")
@pytest.mark.parametrize(
    "call",
    [("setfsuid", 7), ("setfsgid", 7), ("setresuid", -1, -1, 7), ("setresgid", 7, -1, -1), ("prctl", 24, 0, 0, 0, 0)],
)
def test_a_thread_that_is_another_user_or_can_do_less_says_so(call):
    if not (own := process.own_confinement()):
        pytest.skip("a filter confines this process")
    change = (lambda: ctypes.CDLL(None).syscall(seccomp.number_of(call[0]), *call[1:])) if "fs" in call[0] else None
    assert confinement_after(change or (lambda: raw(*call))) != own
    assert process.own_confinement() == own


def test_the_name_is_cut_at_the_kernels_limit():
    def body():
        process.set_name("a-rather-long-sandbox-name")
        with open("/proc/self/comm") as file:
            return 0 if file.read().strip() == "a-rather-long-s" else 1

    assert child(body) == 0


def test_no_capability_survives_dropping():
    def body():
        process.set_no_new_privs()
        process.drop_all_capabilities()
        with open("/proc/self/status") as file:
            sets = {line.split(":")[0]: int(line.split()[1], 16) for line in file if line.startswith("Cap")}
        return 0 if not any(sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")) else 1

    assert child(body) == 0


def test_a_child_ends_with_the_thread_that_started_it():
    script = (
        "import os, signal, sys, time\n"
        "from pyisolate.native import process\n"
        "pid, pidfd = process.clone_cell(0)\n"
        "if pid == 0:\n"
        "    process.set_pdeathsig(signal.SIGKILL)\n"
        "    os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)\n"
        "time.sleep(0.2); os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # ended; an init of a container reaps it when it likes
            return
        threading.Event().wait(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_a_result_becomes_an_oserror_with_operation_subject_and_hint():
    assert check(5, "open") == 5
    with pytest.raises(PermissionError, match=r"mount /x: Operation not permitted\. Hint: needs a capability"):
        check(-1, "mount", "/x")
    with pytest.raises(FileNotFoundError, match=r"open /y: No such file or directory\. Hint: create it$"):
        check(-2, "open", "/y", hint="create it")
