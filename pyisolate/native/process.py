"""Processes and their attributes: clone3, pidfds, prctl, capabilities, namespaces' identity.

Sources: clone(2), pidfd_open(2), pidfd_getfd(2), close_range(2), prctl(2), capabilities(7), user_namespaces(7).
Minimum kernel: 5.9 (close_range); CLONE_INTO_CGROUP needs 5.7, PIDFD_THREAD 6.9.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Iterable, Iterator

from . import _native
from .result import check

# linux/capability.h
CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN = 6, 7, 18, 21
# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

#: pidfd_open(2) flag, 6.9: a pidfd of one thread. linux/pidfd.h defines it as O_EXCL.
PIDFD_THREAD = os.O_EXCL

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_LAST_DESCRIPTOR = 0xFFFFFFFF  # close_range(2): ~0U
_PR_SET_KEEPCAPS = 8
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39

_LAST_FD = 0xFFFFFFFF  # close_range(2): ~0U means "to the end"
_LAST_STANDARD = 2
_CONFINEMENT_WORDS = 96
_NAME_BYTES = 15  # TASK_COMM_LEN - 1, linux/sched.h

_ffi, _lib = _native.ffi, _native.lib


def clone_cell(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork into new namespaces; return (pid, pidfd) in the parent and (0, -1) in the child.

    `flags` are CLONE_NEW* bits; `cgroup_fd` is a cgroup v2 directory to be born in, or -1. The child's exit raises
    SIGCHLD and is collected by waitid. Call it from a single-threaded process only: C library locks held by other
    threads stay locked in the child. Raises OSError.
    """
    pidfd = _ffi.new("int *", -1)
    pid = check(_lib.process_clone_cell(flags, cgroup_fd, pidfd), "clone3", f"flags {flags:#x}")
    return (0, -1) if pid == 0 else (pid, pidfd[0])


def pidfd_open(pid: int, flags: int = 0) -> int:
    """Return a pidfd for `pid`; with PIDFD_THREAD (6.9) for one thread."""
    return os.pidfd_open(pid, flags)


def pidfd_send_signal(pidfd: int, signal_number: int) -> None:
    """Send a signal to exactly the process that `pidfd` names."""
    signal.pidfd_send_signal(pidfd, signal_number)


def pidfd_getfd(pidfd: int, target_fd: int) -> int:
    """Return a duplicate (close-on-exec) of descriptor `target_fd` of the process or thread that `pidfd` names."""
    return check(_lib.process_pidfd_getfd(pidfd, target_fd), "pidfd_getfd", target_fd)


def close_range(first: int, last: int = _LAST_FD) -> None:
    """Close descriptors `first` to `last`, both included."""
    check(_lib.process_close_range(first, last), "close_range", f"{first}-{last}")


def close_all_except(keep: Iterable[int]) -> None:
    """Close every descriptor but those in `keep`."""
    first = 0
    for fd in sorted(set(keep)):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first)


def own_confinement() -> bytes:
    """Say what confines the calling thread: users, groups, capabilities, no_new_privs, Landlock. Equal: confined alike.

    Empty where that is not known so: under a seccomp filter, and with more than 64 groups.
    """
    words = _ffi.new("uint64_t[]", _CONFINEMENT_WORDS)
    count = _lib.process_own_confinement(words, _CONFINEMENT_WORDS)
    return bytes(_ffi.buffer(words, 8 * count)) if count > 0 else b""


def fork_probe() -> int:
    """Fork a child that asks the kernel something and ends, without running code that another thread could lock.

    Python 3.12 and later warn of any fork beside threads, and cannot know that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def wait_ended(pid: int) -> int | None:
    """Return once a child has ended and is reaped, with its wait status.

    None where the host has reaped it, which may ignore SIGCHLD or wait for all.
    """
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None


def signal_name(number: int) -> str:
    """Return what a signal is called; its number where it has no name: of those for real time two have one."""
    return signal.Signals(number).name if number in set(signal.Signals) else str(number)


def reset_signals() -> None:
    """Unblock every signal and give those that this process inherited as ignored their default action (execve(2)).

    SIGPIPE and SIGXFSZ stay as they are: the interpreter ignores them itself, so that a write raises OSError.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def wake_on(number: int, pipe_end: int | None) -> None:
    """Have a signal write a byte to `pipe_end`, a pipe that does not block; None: its default action again.

    One pipe for the process. The interpreter knows nothing of it, so that a forked child has nothing of its to undo.
    """
    check(_lib.process_wake_on(number, -1 if pipe_end is None else pipe_end), "sigaction", number)


def open_standard_descriptors() -> None:
    """Open /dev/null as each of descriptors 0 to 2 that is closed, so that no other file gets these numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Let no signal interrupt this thread's system calls; those that come while it lasts are delivered afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_no_new_privs() -> None:
    """Give up every later gain of privilege by exec, for this thread and its children."""
    check(_lib.process_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS")


def get_no_new_privs() -> bool:
    """Tell whether this thread runs under no_new_privs."""
    return check(_lib.process_prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), "prctl PR_GET_NO_NEW_PRIVS") == 1


def set_pdeathsig(signal_number: int = signal.SIGKILL) -> None:
    """Ask for a signal when the parent *thread* ends. Check os.getppid() afterwards: it may be gone already."""
    check(_lib.process_prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl PR_SET_PDEATHSIG")


def end_with_parent(parent: int) -> None:
    """End this child with the thread that forked it, of process `parent`; at once where that is gone already.

    A change of user or group takes it back (prctl(2)): ask again after one.
    """
    set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_dumpable(dumpable: bool) -> None:
    """Say whether same-uid processes may trace this one and read its /proc entries (a uid change clears it)."""
    check(_lib.process_prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl PR_SET_DUMPABLE")


def get_dumpable() -> bool:
    """Tell whether same-uid processes may trace this one."""
    return check(_lib.process_prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0), "prctl PR_GET_DUMPABLE") == 1


def close_all_but(*kept: int) -> None:
    """Close every descriptor above 2 but these."""
    first = 3
    for descriptor in sorted({one for one in kept if one >= first}):
        if descriptor > first:
            check(_lib.process_close_range(first, descriptor - 1), "close_range", f"{first} to {descriptor - 1}")
        first = descriptor + 1
    check(_lib.process_close_range(first, _LAST_DESCRIPTOR), "close_range", f"from {first}")


def set_name(name: str) -> None:
    """Name this thread as `ps` shows it; cut at 15 bytes, the kernel's limit."""
    check(_lib.process_set_name(name.encode()[:_NAME_BYTES]), "prctl PR_SET_NAME", name)


def drop_all_capabilities() -> bool:
    """Empty this thread's capability sets, for good where the kernel permits it; raise OSError if any remains.

    Returns True when the bounding set was emptied and securebits tried too (needs CAP_SETPCAP, as a cell in its own
    user namespace has). When False, set_no_new_privs() must hold so that exec cannot reach the bounding set.
    """
    return check(_lib.process_limit_capabilities(0), "drop capabilities") == 1


def effective_capabilities() -> int:
    """Return this thread's effective capabilities, a bit for each number of linux/capability.h (proc(5), CapEff)."""
    with open("/proc/thread-self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def become(uid: int, gid: int, *, keep: Iterable[int] = ()) -> None:
    """Become another user for good, as root: no groups, no capability but those of `keep` (linux/capability.h)."""
    os.setgroups([])
    if keep := tuple(keep):
        check(_lib.process_prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl PR_SET_KEEPCAPS")
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << capability for capability in keep)
    check(_lib.process_set_capabilities(mask), "drop capabilities")
    set_dumpable(True)  # else /proc/self is root's (prctl(2))


def keep_only(*capabilities: int) -> bool:
    """Like `drop_all_capabilities`, but keep some: CAP_SYS_CHROOT, which `mount.enter_root` needs at hand-out."""
    mask = sum(1 << capability for capability in capabilities)
    return check(_lib.process_limit_capabilities(mask), "drop capabilities") == 1


def keep_held() -> None:
    """Set this thread's capabilities to what they are: what `drop_chroot` does, without effect."""
    check(_lib.process_keep_capabilities(), "keep capabilities")


def drop_chroot() -> None:
    """After `keep_only`: empty the permitted, effective and inheritable sets, for good. Two system calls."""
    check(_lib.process_set_capabilities(0), "drop capabilities")


def write_id_maps(uid: int, gid: int) -> None:
    """In a fresh user namespace: map `uid` and `gid` (ids outside) to themselves, deny setgroups."""
    check(_lib.process_write_id_maps(uid, gid), "write uid_map and gid_map", f"{uid}:{gid}")


def set_hostname(name: str) -> None:
    """Set the UTS namespace's host name. Needs CAP_SYS_ADMIN in it."""
    encoded = name.encode()
    check(_lib.process_set_hostname(encoded, len(encoded)), "sethostname", name)


def bring_up_loopback() -> None:
    """Bring `lo` up in this network namespace. Needs CAP_NET_ADMIN in it."""
    check(_lib.process_bring_up_loopback(), "ioctl SIOCSIFFLAGS", "lo")
