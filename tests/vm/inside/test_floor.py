"""The floor: refused in every mode by every policy; an unconfined neighbour as root does the same freely."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from tests.vm.inside.guests import Guest, policy

Make = Callable[..., Guest]

_ZEROS = "ctypes.create_string_buffer(256)"

#: expression -> capability of the record. Numbers are x86_64's (arch/x86/entry/syscalls/syscall_64.tbl).
FLOOR = {
    "mount": ("raw(165, b'none', b'/mnt', b'tmpfs', 0, 0)", Capability.KERNEL_MOUNT),
    "bind mount": ("raw(165, b'/usr', b'/mnt', 0, 4096, 0)", Capability.KERNEL_MOUNT),
    "umount": ("raw(166, b'/mnt', 0)", Capability.KERNEL_MOUNT),
    "fsconfig": ("raw(431, raw(430, b'tmpfs', 0), 1, b'size', b'1m', 0)", Capability.KERNEL_MOUNT),
    "chroot": ("os.chroot('/')", Capability.KERNEL_MOUNT),
    "user namespace": ("raw(272, 0x10000000)", Capability.KERNEL_NAMESPACE),
    "mount namespace": ("raw(272, 0x20000)", Capability.KERNEL_NAMESPACE),
    "net namespace": ("raw(272, 0x40000000)", Capability.KERNEL_NAMESPACE),
    "io_uring": (f"raw(425, 1, {_ZEROS})", Capability.KERNEL_IO_URING),
    "userfaultfd": ("raw(323, 0)", Capability.KERNEL_SYSCALL),
    "perf": (f"raw(298, {_ZEROS}, 0, -1, -1, 0)", Capability.KERNEL_PERF),
    "add_key": ("raw(248, b'user', b'x', b'y', 1, -3)", Capability.KERNEL_KEYS),
    "bpf map": (
        "raw(321, 0, ctypes.create_string_buffer(bytes([2,0,0,0,4,0,0,0,4,0,0,0,1,0,0,0])+bytes(100)), 72)",
        Capability.KERNEL_BPF,
    ),
    "bpf ids": (f"raw(321, 12, {_ZEROS}, 16)", Capability.KERNEL_BPF),
    "load module": ("raw(175, 0, 0, b'')", Capability.KERNEL_MODULE),
    "set time": ("time.clock_settime(time.CLOCK_REALTIME, time.time())", Capability.KERNEL_CAPABILITY),
    "syslog": (f"raw(103, 3, {_ZEROS}, 8)", Capability.KERNEL_CAPABILITY),
    "shm": ("raw(29, 0, 4096, 0o1600)", Capability.IPC_SYSV),
    "sem": ("raw(64, 0, 1, 0o1600)", Capability.IPC_SYSV),
    "msg": ("raw(68, 0, 0o1600)", Capability.IPC_SYSV),
    "device": (
        "os.mknod('/dev/shm/d' + str(time.monotonic_ns()), stat.S_IFCHR | 0o600, 0x103)",
        Capability.KERNEL_CAPABILITY,
    ),
    "netlink": ("socket.socket(16, 3, 0)", Capability.NET_SOCKET),
    "packet": ("socket.socket(17, 3, 0)", Capability.NET_SOCKET),
    "raw": ("socket.socket(2, 3, 1)", Capability.NET_SOCKET),
    "sctp": ("socket.socket(2, 1, 132)", Capability.NET_SOCKET),
    "socket filter": ("kept['u'].setsockopt(1, 26, kept['filter'])", Capability.KERNEL_BPF),
    "kill parent": ("os.kill(kept['parent'], 0)", Capability.PROCESS_SIGNAL),
    "kill init": ("os.kill(1, 0)", Capability.PROCESS_SIGNAL),
    "pidfd signal": ("raw(424, raw(434, kept['parent'], 0), 0, 0, 0)", Capability.PROCESS_SIGNAL),
    "ptrace": ("raw(101, 0x4206, kept['parent'], 0, 0)", Capability.PROCESS_TRACE),
    "pidfd_getfd": ("raw(438, raw(434, kept['parent'], 0), 0, 0)", Capability.PROCESS_TRACE),
    "process_vm_readv": ("raw(310, kept['parent'], kept['iov'], 1, kept['iov'], 1, 0)", Capability.PROCESS_TRACE),
    "prlimit": (f"raw(302, kept['parent'], 7, 0, {_ZEROS})", Capability.PROCESS_TRACE),
    "nice": ("os.setpriority(os.PRIO_PROCESS, kept['parent'], 0)", Capability.PROCESS_SIGNAL),
    "affinity": ("os.sched_setaffinity(kept['parent'], {0, 1})", Capability.PROCESS_SIGNAL),
    "quota": (f"raw(179, 0x80000100, 0, 0, {_ZEROS})", Capability.KERNEL_MOUNT),
    "open_tree": ("raw(428, -100, b'/usr', 1)", Capability.KERNEL_MOUNT),
    "setns": ("raw(308, kept['ns'], 0)", Capability.KERNEL_NAMESPACE),
    "SYS_ADMIN through sethostname": ("socket.sethostname('x')", Capability.KERNEL_NAMESPACE),
    "TIOCSTI": ("fcntl.ioctl(kept['pty'], 0x5412, b'x')", Capability.KERNEL_IOCTL),
}
#: Refused to an unconfined root too, for reasons of the machine (no such module, no quota, no child to wait for).
_OTHER_ERRORS_ARE_FINE = {
    "load module",
    "umount",
    "process_vm_readv",
    "quota",
    "sctp",
    "perf",
    "ptrace",
    "raw",
    "TIOCSTI",
    "socket filter",
}

_PREPARE = (
    "kept.update(parent=os.getppid(), u=socket.socket(socket.AF_UNIX), buf=ctypes.create_string_buffer(8),"
    " ns=os.open('/proc/self/ns/uts', os.O_RDONLY), pty=os.openpty()[1]) or kept.update("
    "filter=struct.pack('HxxxxxxQ', 1, ctypes.addressof(kept['buf'])),"
    "iov=ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(kept['buf']), 8)))"
)


def _prepared(one: Guest) -> Guest:
    one.does(_PREPARE)
    return one


@pytest.fixture(scope="module")
def watched(lsm, recorder) -> Iterator[Guest]:
    """A guest that may do all that a policy can grant, and whose policy only watches: the floor holds all the same."""
    one = _prepared(Guest(lsm, recorder))
    one.confine(policy({"/": "rwcdmxX"}, allow_fork=True, mode=Mode.MONITOR))
    yield one
    one.close()


@pytest.fixture(scope="module")
def free(lsm, recorder) -> Iterator[Guest]:
    one = _prepared(Guest(lsm, recorder, cell=["unshare", "-m"]))
    yield one
    one.close()


@pytest.mark.parametrize("name", FLOOR)
def test_the_floor_holds(watched: Guest, free: Guest, name: str) -> None:
    expression, capability = FLOOR[name]
    before = len(watched.recorder.of(watched.sandbox_id))
    assert isinstance(watched.does(expression), int)
    record = watched.recorder.of(watched.sandbox_id)[before:][-1]
    assert record.capability is capability
    assert record.code is DenialCode.ALWAYS_DENIED
    assert record.verdict is Verdict.DENY
    answer = free.does(f"child(lambda: {expression})")  # in a child: some of these change the caller for good
    if name not in _OTHER_ERRORS_ARE_FINE:
        assert answer not in (errno.EPERM, errno.EACCES), f"an unconfined root is refused too ({answer})"


def test_the_floor_inside_the_sandbox_is_free(guest: Make) -> None:
    one = guest(policy({}, allow_fork=True))
    one.allowed("os.kill(os.getpid(), 0)")
    one.allowed("os.setpriority(os.PRIO_PROCESS, 0, 0)")
    one.allowed("[kept.update(c=os.fork() or time.sleep(60)), os.kill(kept['c'], 9), os.waitpid(kept['c'], 0)][2][1]")


def test_two_sandboxes_do_not_reach_each_other(guest: Make) -> None:
    one, two = guest(policy({})), guest(policy({}))
    record = one.refused(f"os.kill({two.pid}, 0)", errno.EPERM)
    assert record.target == f"pid {two.pid}"
    one.does("kept.update(buf=ctypes.create_string_buffer(8))")
    one.does("kept.update(iov=ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(kept['buf']), 8)))")
    one.refused(f"raw(310, {two.pid}, kept['iov'], 1, kept['iov'], 1, 0)", errno.EPERM)


def test_capabilities_over_files_stay(guest: Make, files) -> None:
    """Rules decide on files by path, so a root guest's rights over files are not in the way of a grant."""
    import os

    os.chown(files / "granted/f", 65534, 65534)
    os.chmod(files / "granted/f", 0o600)
    one = guest(policy({files / "granted": "r"}))
    one.allowed(f"open('{files}/granted/f')")


def test_neither_map_nor_program_can_be_had(lsm, guest: Make) -> None:
    """Self-protection: by id, by a descriptor left open, by pinned path."""
    one = guest(policy({"/": "rwcdmxX"}))
    for command in range(0, 37):
        one.refused(f"raw(321, {command}, ctypes.create_string_buffer(256), 120)", errno.EPERM)
