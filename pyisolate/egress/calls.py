"""The system calls that the proxy's process may make: what it reads, parses and connects with, and nothing else.

A refused call fails with EPERM, and the proxy with it where it could not do without. Where a library comes to need
another call, a request fails; nothing is let through.
"""

from __future__ import annotations

import errno
import mmap
import socket

from ..native import seccomp
from ..native.seccomp import Compare, FilterRule, FilterSpec, compile_filter, refuse

_FILES = """read write readv writev pread64 pwrite64 lseek close fstat stat lstat newfstatat statx open openat access
    faccessat faccessat2 readlink readlinkat getdents64 getcwd fcntl dup dup2 dup3 pipe2 memfd_create"""
_MEMORY = "munmap mremap madvise brk"
_THREADS = """futex futex_wait futex_wake set_robust_list rseq set_tid_address gettid getpid sched_yield
    sched_getaffinity exit exit_group restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack"""
_NETWORK = """connect bind listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown sendto recvfrom
    sendmsg recvmsg sendmmsg recvmmsg socketpair poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait
    epoll_pwait epoll_pwait2 eventfd2"""
_OTHERS = """clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom uname sysinfo getuid
    geteuid getgid getegid getppid getrlimit"""
#: What a name service speaks besides: a daemon's socket, and the kernel's about interfaces (getaddrinfo(3)).
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
#: FIONBIO, FIONREAD, FIOCLEX, TCGETS (ioctl_tty(2); linux/asm-generic/ioctls.h)
_IOCTLS = (0x5421, 0x541B, 0x5451, 0x5401)
_PR_SET_NAME = 15
_CLONE_THREAD = 0x00010000  # linux/sched.h
_WORD = 0xFFFFFFFF


def program() -> bytes:
    """Return the filter. Raises OSError."""
    names = " ".join((_FILES, _MEMORY, _THREADS, _NETWORK, _OTHERS)).split()
    rules = [FilterRule(name) for name in names]
    rules += [FilterRule("socket", when=(Compare(0, int(family), _WORD),)) for family in _FAMILIES]
    rules += [FilterRule("ioctl", when=(Compare(1, request, _WORD),)) for request in _IOCTLS]
    # a library is mapped to be run, and is never memory that can be written
    rules += [FilterRule("mmap", when=(Compare(2, 0, bit),)) for bit in (mmap.PROT_WRITE, mmap.PROT_EXEC)]
    rules.append(FilterRule("mprotect", when=(Compare(2, 0, mmap.PROT_EXEC),)))
    rules.append(FilterRule("prctl", when=(Compare(0, _PR_SET_NAME, _WORD),)))
    rules.append(FilterRule("prlimit64", when=(Compare(2, 0),)))  # to read one
    # threads and no processes; clone3 has its flags in memory, and the C library then takes the other
    rules.append(FilterRule("clone", when=(Compare(0, _CLONE_THREAD, _CLONE_THREAD),)))
    rules.append(FilterRule("clone3", refuse(errno.ENOSYS)))
    return compile_filter(FilterSpec(tuple(rules), default=refuse(errno.EPERM), foreign=refuse(errno.ENOSYS)))


def restrict() -> None:
    """Refuse all other calls of this process, for good. It must have no thread yet. Raises OSError."""
    seccomp.install(program(), notify=False)
