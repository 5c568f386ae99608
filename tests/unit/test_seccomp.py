"""The compiled filters, run instruction by instruction without the kernel."""

from __future__ import annotations

import errno
import mmap
import struct
from pathlib import Path

import pytest

from pyisolate.capability import CAPABILITY_NUMBER, Capability
from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.kernel.seccomp.syscalls import (
    ALLOWED,
    CAPABILITY_OF,
    CONDITIONAL,
    NUMBERED,
    PATH_ARGUMENT,
    REPORTED_WHEN_FULL,
    SOCKET_OPTIONS,
)
from pyisolate.native import notify as native_notify
from pyisolate.native.seccomp import ALLOW, AUDIT_ARCH, NOTIFY, number_of, refuse

EPERM, ENOSYS = refuse(errno.EPERM), refuse(errno.ENOSYS)
CLONE_THREAD = 0x3D0F00  # what pthread_create passes


def verdict(program: bytes, call: str | int, *args: int, arch: int = AUDIT_ARCH) -> int:
    """Run a classic BPF program (linux/filter.h) on one system call; the instructions that seccomp allows."""
    number = number_of(call) if isinstance(call, str) else call
    padded = (*args, *(0,) * (6 - len(args)))
    data = struct.pack("=iIQ6Q", number, arch, 0, *(a & (1 << 64) - 1 for a in padded))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        op, true, false, k = code[at]
        at += 1
        match op:
            case 0x20:  # ld [k]
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x54:  # and k
                accumulator &= k
            case 0x06:  # ret k
                return k
            case 0x05:  # ja
                at += k
            case 0x15:
                at += true if accumulator == k else false
            case 0x25:
                at += true if accumulator > k else false
            case 0x35:
                at += true if accumulator >= k else false
            case _:
                raise AssertionError(f"an instruction that libseccomp does not make: {op:#x}")


@pytest.mark.parametrize("kind", ["cell", "thread"])
def test_what_is_on_the_list_goes_through_and_everything_else_asks(kind: str) -> None:
    program = seccomp.cell_program() if kind == "cell" else seccomp.thread_program()
    allowed = {call for group in ALLOWED if kind == "cell" or not group.cell_only for call in group.calls}
    allowed.add("getrandom")
    conditional = {rule.syscall for rule in CONDITIONAL} | set(NUMBERED)
    for number in range(600):
        name = seccomp.syscall_name(number)
        if name in conditional:
            continue
        expected = ALLOW if name in allowed else NOTIFY
        assert verdict(program, number, 1, 1, 1, 1, 1, 1) == expected, name


def test_without_a_listener_the_rest_fails() -> None:
    program = seccomp.cell_program(notify=False)
    assert verdict(program, "bpf") == EPERM
    assert verdict(program, "read") == ALLOW
    assert verdict(program, "clone3") == verdict(program, "openat2") == ENOSYS
    assert verdict(program, "kill", 99999, 9) == verdict(program, "setpriority", 0, 99999, 5) == ALLOW
    assert verdict(program, "capset", 0, 0) == ALLOW
    assert NOTIFY not in {k for op, _, _, k in struct.iter_unpack("=HBBI", program) if op == 6}


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (seccomp.cell_program(), NOTIFY),
        (seccomp.thread_program(), NOTIFY),
        (seccomp.cell_program(notify=False), ENOSYS),
        (seccomp.random_filter(), ENOSYS),
    ],
)
def test_other_architectures_and_x32_do_not_exist(program: bytes, expected: int) -> None:
    for arch in (0x40000003, 0xC00000B7 if AUDIT_ARCH == 0xC000003E else 0xC000003E, 0):
        assert verdict(program, "read", arch=arch) == expected
    if AUDIT_ARCH == 0xC000003E:
        assert verdict(program, 0x40000000 | number_of("getpid")) == expected


CASES = [
    ("clone", (CLONE_THREAD,), ALLOW),
    ("clone", (CLONE_THREAD | 0x10000000,), NOTIFY),  # CLONE_NEWUSER
    ("clone", (17,), NOTIFY),
    ("clone", (0x4111,), NOTIFY),  # vfork's flags
    ("clone", (CLONE_THREAD & ~0x400,), NOTIFY),  # a thread with a descriptor table of its own
    ("clone3", (0, 88), ENOSYS),  # glibc's own
    ("clone3", (0, 64), NOTIFY),
    ("kill", (0, 15), ALLOW),
    ("kill", (2, 15), ALLOW),  # the guest's first process
    ("kill", (1, 15), NOTIFY),  # the init
    ("kill", (3, 15), NOTIFY),
    ("kill", (1 << 32 | 2, 15), ALLOW),  # the kernel reads an int
    ("kill", (0xFFFFFFFF, 15), NOTIFY),  # -1
    ("kill", (0xFFFFFFFFFFFFFC00, 15), NOTIFY),  # -1024, a group
    ("kill", (0xFFFF0000, 15), NOTIFY),
    ("tgkill", (99999, 99999, 15), NOTIFY),
    ("setpriority", (0, 99999, 5), NOTIFY),
    ("setpriority", (0, 0, 5), NOTIFY),
    ("sched_setaffinity", (0, 8, 0), ALLOW),
    ("sched_setscheduler", (0, 1, 0), NOTIFY),
    ("pidfd_open", (99999, 0), NOTIFY),
    ("fork", (), NOTIFY),
    ("socket", (1, 1, 0), NOTIFY),
    ("socketpair", (1, 1, 0), ALLOW),
    ("socketpair", (2, 1, 0), NOTIFY),
    ("sendto", (3, 1, 1, 0, 0, 0), ALLOW),
    ("sendto", (3, 1, 1, 0x4000, 0, 0), ALLOW),
    ("sendto", (3, 1, 1, 0x20000000, 0, 0), NOTIFY),
    ("sendto", (3, 1, 1, 0, 0x1000, 16), NOTIFY),
    ("sendto", (3, 1, 1, 0, 1 << 32, 16), NOTIFY),  # the upper half of a pointer counts
    ("sendmsg", (), NOTIFY),
    ("setsockopt", (3, 6, 1), ALLOW),  # TCP_NODELAY
    ("setsockopt", (3, 0, 4), NOTIFY),  # IP_OPTIONS
    ("setsockopt", (3, 41, 57), NOTIFY),  # IPV6_RTHDR
    ("setsockopt", (3, 41, 26), NOTIFY),  # IPV6_V6ONLY: set by the listener
    ("setsockopt", (3, 1, 21), NOTIFY),  # SO_SNDTIMEO: likewise
    ("setsockopt", (3, 1, 13), NOTIFY),  # SO_LINGER: likewise
    ("setsockopt", (3, 1, 7), NOTIFY),  # SO_SNDBUF: its size is bounded
    ("setsockopt", (3, 1, 50), NOTIFY),  # SO_ATTACH_BPF
    ("setsockopt", (3, 6, 31), NOTIFY),  # TCP_ULP
    ("ioctl", (0, 0x541B), ALLOW),
    ("ioctl", (0, 0x5412), NOTIFY),  # TIOCSTI
    ("ioctl", (0, 0x541C), NOTIFY),  # TIOCLINUX
    ("ioctl", (0, (1 << 32) | 0x541B), NOTIFY),
    ("prctl", (15,), ALLOW),
    ("prctl", (1,), NOTIFY),
    ("prctl", (4,), NOTIFY),
    ("prctl", (35,), NOTIFY),
    ("mmap", (0, 1, mmap.PROT_READ | mmap.PROT_WRITE, 0x22), ALLOW),
    ("mmap", (0, 1, mmap.PROT_READ | mmap.PROT_EXEC, 0x02), ALLOW),
    ("mmap", (0, 1, mmap.PROT_READ | mmap.PROT_EXEC, 0x22), NOTIFY),
    ("mmap", (0, 1, 7, 0x02), NOTIFY),
    ("mprotect", (0, 1, 3), ALLOW),
    ("mprotect", (0, 1, 5), NOTIFY),
    ("pkey_mprotect", (0, 1, 5), NOTIFY),
    ("memfd_create", (0, 8), NOTIFY),
    ("personality", (0xFFFFFFFF,), ALLOW),
    ("personality", (0x0400000,), NOTIFY),
    ("prlimit64", (0, 7, 0), ALLOW),
    ("prlimit64", (4242, 7, 0), NOTIFY),
    ("prlimit64", (0, 7, 4096), NOTIFY),
    ("close_range", (3, 99, 0), ALLOW),
    ("close_range", (3, 99, 2), NOTIFY),
    ("open", (0, 0o100, 0o644), ALLOW),
    ("open", (0, 0o100, 0o4755), NOTIFY),
    ("open", (0, 0, 0o7777), ALLOW),
    ("openat", (0, 0, 0o100, 0o2755), NOTIFY),
    ("openat", (0, 0, 0o20200000, 0o4600), NOTIFY),  # O_TMPFILE
    ("openat2", (), NOTIFY),
    ("chmod", (0, 0o1777), ALLOW),
    ("fchmodat", (0, 0, 0o4755), NOTIFY),
    ("mknod", (0, 0o010600), ALLOW),
    ("mknod", (0, 0o020600), NOTIFY),
    ("mknod", (0, 0o140600), NOTIFY),
    ("fcntl", (0, 1024), NOTIFY),
    ("fcntl", (0, 5), ALLOW),  # F_GETLK
    ("fcntl", (0, 6), NOTIFY),  # F_SETLK: counted by the listener
    ("fcntl", (0, 37), NOTIFY),  # F_OFD_SETLK
    ("mmap", (0, 4096, 3, 0x22), ALLOW),
    ("mmap", (0, 1 << 21, 3, 0x40022), NOTIFY),  # MAP_HUGETLB
    ("fcntl", (0, 8), NOTIFY),
]


@pytest.mark.parametrize(("call", "args", "expected"), CASES)
def test_conditions_are_on_values(call: str, args: tuple[int, ...], expected: int) -> None:
    assert verdict(seccomp.cell_program(), call, *args) == expected


def test_a_sandbox_thread_may_not_reach_its_host() -> None:
    cell, thread = seccomp.cell_program(), seccomp.thread_program()
    for call in ("kill", "tgkill", "chdir", "umask", "setitimer", "sched_setparam"):
        assert (verdict(cell, call, 2), verdict(thread, call, 2)) == (ALLOW, NOTIFY), call
    assert verdict(seccomp.cell_program(notify=False), "prlimit64", 0, 7, 0x1000) == ALLOW
    assert verdict(thread, "prlimit64", 0, 7, 0x1000) == NOTIFY
    assert verdict(thread, "sched_setaffinity", 0) == ALLOW
    assert verdict(thread, "sched_setaffinity", 1) == NOTIFY


def test_random_is_asked_about_or_refused_on_request() -> None:
    assert verdict(seccomp.cell_program(), "getrandom") == ALLOW
    assert verdict(seccomp.cell_program(random=False), "getrandom") == NOTIFY
    assert verdict(seccomp.random_filter(), "getrandom") == EPERM
    assert verdict(seccomp.random_filter(), "bpf") == ALLOW  # the first filter's business


def test_full_telemetry_asks_about_files_too() -> None:
    full = seccomp.cell_program(full=True)
    for call in REPORTED_WHEN_FULL:
        assert verdict(full, call, 0, 0, 0) == NOTIFY, call
    assert verdict(full, "read") == ALLOW
    code = (0, 1, mmap.PROT_READ | mmap.PROT_EXEC, 0x02)
    assert verdict(full, "mmap", *code) == NOTIFY, "a noexec mount refuses it"
    assert verdict(full, "mmap", 0, 1, mmap.PROT_READ, 0x02) == ALLOW
    assert verdict(seccomp.thread_program(full=True), "mmap", *code) == ALLOW, "a thread has no root view"


def test_every_refused_call_has_one_capability_and_no_allowed_call_has_any() -> None:
    both_kinds = {call for group in ALLOWED if not group.cell_only for call in group.calls}
    assert both_kinds & set(CAPABILITY_OF) == set()
    conditional = {rule.syscall for rule in CONDITIONAL}
    assert conditional - set(CAPABILITY_OF) == set()
    assert seccomp.capability_of("a call of the future") is Capability.KERNEL_SYSCALL
    assert set(PATH_ARGUMENT) <= set(CAPABILITY_OF) | set(REPORTED_WHEN_FULL)


def test_names_and_numbers_agree() -> None:
    assert seccomp.syscall_name(number_of("connect")) == "connect"
    assert seccomp.syscall_name(1000) == "syscall_1000"
    numbers = [number_of(name) for name in seccomp.syscall_numbers().values()]
    assert len(set(numbers)) == len(numbers)


def test_the_listener_uses_the_same_capability_numbers() -> None:
    assert native_notify.CAPABILITY_NUMBERS
    for name, number in native_notify.CAPABILITY_NUMBERS.items():
        assert CAPABILITY_NUMBER[Capability[name]] == number
    assert max(CAPABILITY_NUMBER.values()) < native_notify.CAPABILITIES


def test_descriptions_name_what_matters() -> None:
    describe = seccomp.describe
    assert describe("ioctl", (0, 0x5412, 0)) == "ioctl(TIOCSTI)"
    assert describe("prctl", (1,)) == "prctl(PR_SET_PDEATHSIG)"
    assert describe("kill", (0xFFFFFFFF, 9)) == "kill(-1, signal 9)"
    assert describe("mmap", (0, 4096, 7, 0x22)) == "mmap(rwx anonymous, 4096 bytes)"
    assert describe("setsockopt", (3, 0, 4)) == "setsockopt(level 0, option 4)"
    assert describe("bpf", ()) == "bpf(command 0)"
    assert describe("reboot", ()) == "reboot()"
    assert seccomp.socket_text(2, 1 | 0o2000000) == "AF_INET/SOCK_STREAM"


def test_no_socket_option_is_listed_that_redirects() -> None:
    listed = {(level, option) for level, options in SOCKET_OPTIONS.items() for option in options.values()}
    forbidden = {(0, 4), (41, 57), (41, 6), (1, 25), (1, 26), (1, 50), (1, 36), (0, 19), (0, 35), (41, 75), (6, 31)}
    assert not listed & forbidden


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="Hint: cell or thread"):
        seccomp.filter_spec("process", notify=True, random=True, full=False)


def test_the_documentation_names_every_call_that_has_conditions() -> None:
    text = (Path(__file__).parents[2] / "docs/system-calls.md").read_text()
    missing = {rule.syscall for rule in CONDITIONAL if f"`{rule.syscall}`" not in text}
    assert not missing
