"""The system calls a guest may make, and the capability that each refused one asks for.

`ALLOWED` is the allow-list by group with the reason for each group. `CONDITIONAL` lists the calls that are allowed
for some argument values only: seccomp sees the registers and never what they point to, so a condition is on a value,
a flag or a null pointer. What neither names goes to the listener, or fails where there is none.
"""

from __future__ import annotations

import errno
import mmap
import socket
from typing import NamedTuple

from ...capability import Capability
from ...native.notify import DESCRIPTOR
from ...native.seccomp import ALLOW, Compare, FilterRule, refuse


class Group(NamedTuple):
    """Calls that are on the list for one reason. `cell_only`: their effect would leave a sandbox thread."""

    why: str
    calls: tuple[str, ...]
    cell_only: bool = False


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALLOWED: tuple[Group, ...] = (
    Group("reads and writes on open descriptors; opening them is what is decided", _words("""
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close dup dup2 dup3
        pipe pipe2 fsync fdatasync ftruncate fallocate sync_file_range fadvise64 readahead flock
        copy_file_range sendfile splice tee getdents getdents64 fstat fstatfs""")),
    Group("paths: Landlock or BPF-LSM decides, and the root view holds only what is granted", _words("""
        stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd
        statfs truncate mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
        utime utimes utimensat futimesat chown lchown fchown fchownat
        getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
        setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr""")),
    Group("the process's own directory and mask, which threads of one process share", _words("""
        chdir fchdir umask"""), cell_only=True),
    Group("memory that is not executable", _words("""
        munmap mremap madvise brk msync mlock mlock2 munlock mlockall munlockall membarrier mincore mseal
        get_mempolicy set_mempolicy mbind pkey_alloc pkey_free""")),
    Group("threads and their synchronisation", _words("""
        futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list rseq set_tid_address
        gettid sched_yield exit exit_group restart_syscall
        sched_getaffinity sched_getparam sched_getscheduler sched_getattr sched_get_priority_max
        sched_get_priority_min sched_rr_get_interval getcpu""")),
    Group("signal handling inside the process", _words("""
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack
        pause signalfd signalfd4""")),
    Group("signals by descriptor: a cell's pid namespace holds no other process", _words("""
        pidfd_send_signal"""), cell_only=True),
    Group("rights that can only be lost, at hand-out and reload; a guest has no ruleset to stack", _words("""
        landlock_restrict_self"""), cell_only=True),
    Group("time", _words("""
        clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getitimer
        timerfd_create timerfd_settime timerfd_gettime timer_gettime timer_getoverrun timer_delete""")),
    Group("timers that raise a signal in the whole process", _words("""
        setitimer alarm timer_create timer_settime"""), cell_only=True),
    Group("waiting for descriptors", _words("""
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
        eventfd eventfd2""")),
    Group("who and what am I", _words("""
        getpid getppid getpgid getpgrp getsid getuid geteuid getgid getegid getresuid getresgid getgroups
        getrusage getpriority getrlimit uname sysinfo capget""")),
    Group("the sandbox's own children, where fork is granted", _words("wait4 waitid")),
    Group("sessions, priorities and limits of the cell's own processes", _words("""
        setsid setpgid"""), cell_only=True),
    Group("sockets once they exist: making, naming and unconnected sending is what is decided", _words("""
        recvfrom recvmsg recvmmsg accept accept4 getsockname getpeername getsockopt shutdown""")),
)  # fmt: skip

_CLONE_VM, _CLONE_FS, _CLONE_FILES, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x200, 0x400, 0x800, 0x10000
_THREAD = _CLONE_VM | _CLONE_FS | _CLONE_FILES | _CLONE_SIGHAND | _CLONE_THREAD
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h); CLONE_NEWTIME is clone3's only.
CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_CLONE_PTRACE = 0x2000
_CLONE_ARGS_BYTES = 88  # struct clone_args as glibc knows it, CLONE_ARGS_SIZE_VER2
_O_CREAT, _O_TMPFILE_BIT = 0x40, 0x400000
_MSG_FASTOPEN = 0x20000000
_SET_ID_BITS = 0o6000
_CLOSE_RANGE_UNSHARE = 2
_MAP_HUGETLB = 0x40000
_AT_EMPTY_PATH = 0x1000


def _values(syscall: str, argument: int, values: tuple[int, ...]) -> tuple[FilterRule, ...]:
    return tuple(FilterRule(syscall, ALLOW, (Compare(argument, value),)) for value in values)


def _pairs(syscall: str, first: int, value: int, second: int, values: tuple[int, ...]) -> tuple[FilterRule, ...]:
    return tuple(FilterRule(syscall, ALLOW, (Compare(first, value), Compare(second, other))) for other in values)


# ioctl(2): queries, and flags that fcntl(2) sets too. Never TIOCSTI or TIOCLINUX, which type into a terminal.
IOCTLS = {
    "FIONREAD": 0x541B, "FIONBIO": 0x5421, "FIONCLEX": 0x5450, "FIOCLEX": 0x5451, "TIOCOUTQ": 0x5411,
    "SIOCATMARK": 0x8905, "TCGETS": 0x5401, "TCGETS2": 0x802C542A, "TIOCGWINSZ": 0x5413, "TIOCGPGRP": 0x540F,
    "FICLONE": 0x40049409, "FICLONERANGE": 0x4020940D,
}  # fmt: skip

# prctl(2). Never PDEATHSIG (it ends the cell with its zygote), DUMPABLE (the supervisor reads addresses), PTRACER,
# SECCOMP, SECUREBITS, MM.
PRCTLS = {
    "GET_PDEATHSIG": 2, "GET_DUMPABLE": 3, "GET_KEEPCAPS": 7, "GET_TIMING": 13, "SET_NAME": 15, "GET_NAME": 16,
    "GET_SECCOMP": 21, "CAPBSET_READ": 23, "GET_SECUREBITS": 27, "SET_TIMERSLACK": 29, "GET_TIMERSLACK": 30,
    "MCE_KILL_GET": 34, "SET_CHILD_SUBREAPER": 36, "GET_CHILD_SUBREAPER": 37, "SET_NO_NEW_PRIVS": 38,
    "GET_NO_NEW_PRIVS": 39, "GET_TID_ADDRESS": 40, "SET_THP_DISABLE": 41, "GET_THP_DISABLE": 42,
    "GET_SPECULATION_CTRL": 52, "GET_MDWE": 66, "GET_AUXV": 0x41555856, "SET_VMA": 0x53564D41,
}  # fmt: skip

# arch_prctl(2), x86-64: thread pointers, and what glibc asks at start (shadow stacks, CET).
ARCH_PRCTLS = {
    "SET_GS": 0x1001, "SET_FS": 0x1002, "GET_FS": 0x1003, "GET_GS": 0x1004, "CET_STATUS": 0x3001,
    "SHSTK_ENABLE": 0x5001, "SHSTK_DISABLE": 0x5002, "SHSTK_LOCK": 0x5003, "SHSTK_STATUS": 0x5005,
}  # fmt: skip

# fcntl(2). Never SETLEASE (it stalls processes outside that open the file), SETOWN and SETSIG, NOTIFY. Record locks
# (_LOCKS) are memory that no group is charged for: the listener counts them.
FCNTLS = {
    "DUPFD": 0, "GETFD": 1, "SETFD": 2, "GETFL": 3, "SETFL": 4, "GETLK": 5, "GETOWN": 9,
    "GETSIG": 11, "OFD_GETLK": 36, "DUPFD_QUERY": 1027, "DUPFD_CLOEXEC": 1030,
    "GETPIPE_SZ": 1032, "ADD_SEALS": 1033, "GET_SEALS": 1034, "GET_RW_HINT": 1035,
    "SET_RW_HINT": 1036,
}  # fmt: skip

# F_SETPIPE_SZ, up to what a pipe has by itself: the kernel counts its pages by user, and cells may share one.
SETPIPE_SZ, _PIPE_BYTES = 1031, 1 << 16
_LOCKS = {"SETLK": 6, "SETLKW": 7, "OFD_SETLK": 37, "OFD_SETLKW": 38}

# setsockopt(2), by level. Never IP_OPTIONS, IPV6_RTHDR or IPV6_2292PKTOPTIONS: a source route sends the packets of a
# granted address to another host. Never ATTACH_FILTER/BPF, BINDTODEVICE, multicast membership, TCP_ULP, TCP_REPAIR.
# IPV6_V6ONLY, SO_SNDTIMEO and SO_LINGER are set by the listener, whose own decisions and patience depend on them, and
# SO_SNDBUF and SO_RCVBUF, of which it bounds the size.
_SOL_SOCKET, _IP, _TCP, _UDP, _IPV6 = 1, 0, 6, 17, 41
SOCKET_OPTIONS: dict[int, dict[str, int]] = {
    _SOL_SOCKET: {
        "DEBUG": 1, "REUSEADDR": 2, "DONTROUTE": 5, "BROADCAST": 6, "KEEPALIVE": 9,
        "OOBINLINE": 10, "PRIORITY": 12, "REUSEPORT": 15, "PASSCRED": 16, "RCVLOWAT": 18,
        "RCVTIMEO_OLD": 20, "TIMESTAMP": 29, "PEEK_OFF": 42, "INCOMING_CPU": 49, "BUSY_POLL": 46,
        "TIMESTAMP_NEW": 63, "RCVTIMEO_NEW": 66,
    },
    _TCP: {
        "NODELAY": 1, "MAXSEG": 2, "CORK": 3, "KEEPIDLE": 4, "KEEPINTVL": 5, "KEEPCNT": 6, "SYNCNT": 7, "LINGER2": 8,
        "DEFER_ACCEPT": 9, "WINDOW_CLAMP": 10, "QUICKACK": 12, "USER_TIMEOUT": 18, "FASTOPEN": 23,
        "NOTSENT_LOWAT": 25, "FASTOPEN_CONNECT": 30,
    },
    _IP: {"TOS": 1, "TTL": 2, "PKTINFO": 8, "MTU_DISCOVER": 10, "RECVERR": 11, "RECVTTL": 12, "RECVTOS": 13,
          "BIND_ADDRESS_NO_PORT": 24},
    _IPV6: {"UNICAST_HOPS": 16, "MTU_DISCOVER": 23, "RECVERR": 25, "RECVPKTINFO": 49,
            "RECVHOPLIMIT": 51, "RECVTCLASS": 66, "TCLASS": 67},
    _UDP: {"SEGMENT": 103, "GRO": 104},
}  # fmt: skip


def _file_creation() -> tuple[FilterRule, ...]:
    """Files may be made and opened, but never set-user-id or set-group-id ones: granted directories are the host's."""
    rules = []
    for call, flags_at, mode_at in (("open", 1, 2), ("openat", 2, 3)):
        rules.append(FilterRule(call, ALLOW, (Compare(mode_at, 0, _SET_ID_BITS),)))
        # without O_CREAT and O_TMPFILE the mode is not read, and may be anything
        rules.append(FilterRule(call, ALLOW, (Compare(flags_at, 0, _O_CREAT | _O_TMPFILE_BIT),)))
    for call, mode_at in (("creat", 1), ("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2)):
        rules.append(FilterRule(call, ALLOW, (Compare(mode_at, 0, _SET_ID_BITS),)))
    for call, mode_at in (("mknod", 1), ("mknodat", 2)):
        for kind in (0, 0o010000, 0o100000):  # regular, fifo, regular; never a device, and sockets are made by bind
            rules.append(FilterRule(call, ALLOW, (Compare(mode_at, kind, 0o170000 | _SET_ID_BITS),)))
    return tuple(rules)


#: A file's code, mapped. Where the listener watches files it sees this as well: no filter sees how a mount is mounted.
MAPS_CODE = FilterRule(
    "mmap",
    ALLOW,
    (
        Compare(2, mmap.PROT_EXEC, mmap.PROT_EXEC | mmap.PROT_WRITE),
        Compare(3, 0, mmap.MAP_ANONYMOUS | _MAP_HUGETLB),
    ),
)


def _memory() -> tuple[FilterRule, ...]:
    """Executable memory comes from files only, and never writable at the same time. Huge pages are the host's.

    memfd_create is not here, not even with MFD_NOEXEC_SEAL: the seal stops execve, but mmap maps such a file
    executable all the same (measured on 6.18), which makes it memory that was written and can be run.
    """
    executable = mmap.PROT_EXEC
    return (
        FilterRule("mmap", ALLOW, (Compare(2, 0, executable), Compare(3, 0, _MAP_HUGETLB))),
        MAPS_CODE,
        FilterRule("mprotect", ALLOW, (Compare(2, 0, executable),)),
        FilterRule("pkey_mprotect", ALLOW, (Compare(2, 0, executable),)),
        FilterRule("personality", ALLOW, (Compare(0, 0xFFFFFFFF),)),  # the query
    )


def _processes() -> tuple[FilterRule, ...]:
    """Threads are free; every process, and every namespace, goes to the listener."""
    return (
        FilterRule("clone", ALLOW, (Compare(0, _THREAD, _THREAD | CLONE_NEW | _CLONE_PTRACE),)),
        # Its flags are in memory; glibc falls back to clone. Its own calls, of this size, are not notified: a signal
        # would make them fail with EINTR (seccomp_unotify(2)), and starting a thread must not.
        FilterRule("clone3", refuse(errno.ENOSYS), (Compare(1, _CLONE_ARGS_BYTES),)),
        FilterRule("close_range", ALLOW, (Compare(2, 0, _CLOSE_RANGE_UNSHARE),)),
        FilterRule("prlimit64", ALLOW, (Compare(0, 0), Compare(2, 0))),
        FilterRule("get_robust_list", ALLOW, (Compare(0, 0),)),  # another's only a tracer may read (get_robust_list(2))
        *_values("prctl", 0, tuple(PRCTLS.values())),
        *_values("arch_prctl", 0, tuple(ARCH_PRCTLS.values())),
    )


def _sockets() -> tuple[FilterRule, ...]:
    return (
        FilterRule("socketpair", ALLOW, (Compare(0, int(socket.AF_UNIX)),)),
        FilterRule("sendto", ALLOW, (Compare(4, 0), Compare(3, 0, _MSG_FASTOPEN))),
        *(
            rule
            for level, options in SOCKET_OPTIONS.items()
            for rule in _pairs("setsockopt", 1, level, 2, tuple(options.values()))
        ),
    )


def _native_sockets() -> tuple[FilterRule, ...]:
    """What a cell may do by itself whose control group's programs judge addresses.

    Not sendmsg: its control messages (IP_RETOPTS, IPV6_RTHDR) carry routes, which no program sees. Not bind: no program
    tells an abstract unix name. Of unix sockets only pairs that are connected for good, because connect goes through.
    """
    flags = int(socket.SOCK_NONBLOCK) | int(socket.SOCK_CLOEXEC)
    whole = 0xFFFFFFFF ^ flags
    made = [
        FilterRule("socket", ALLOW, (Compare(0, int(family)), Compare(1, int(kind), whole), Compare(2, protocol)))
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind, protocol in (
            (socket.SOCK_STREAM, 0),
            (socket.SOCK_STREAM, _TCP),
            (socket.SOCK_DGRAM, 0),
            (socket.SOCK_DGRAM, _UDP),
        )
    ]
    pairs = [
        FilterRule("socketpair", ALLOW, (Compare(0, int(socket.AF_UNIX)), Compare(1, int(kind), whole)))
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    ]
    return (*made, *pairs, FilterRule("connect"), FilterRule("sendto"))


CONDITIONAL: tuple[FilterRule, ...] = (
    *_file_creation(),
    *_memory(),
    *_processes(),
    *_sockets(),
    *_values("ioctl", 1, tuple(IOCTLS.values())),
    *_values("fcntl", 1, tuple(FCNTLS.values())),
    FilterRule("fcntl", ALLOW, (Compare(1, SETPIPE_SZ), Compare(2, 0, 2**64 - _PIPE_BYTES))),
    FilterRule("fcntl", ALLOW, (Compare(1, SETPIPE_SZ), Compare(2, _PIPE_BYTES))),
)

#: Calls on a process or thread by its number, and the argument that is it. A cell's pid namespace holds no others.
NUMBERED: dict[str, int] = dict.fromkeys(
    _words("""kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open
        sched_setaffinity sched_setscheduler sched_setparam sched_setattr"""),
    0,
) | {"setpriority": 1}
#: By these a task may also raise its own priority, which its arguments say: the listener sees each of them.
_RANKING = ("setpriority", "sched_setscheduler", "sched_setattr")
#: The caller itself, and the guest's first process. Any other number goes to the listener, which records those that
#: name no task of the cell, and the cell's init (1). A signal may make such a call fail with EINTR, these two never.
_OWN_NUMBERS = (0, 2)


def _numbered() -> tuple[FilterRule, ...]:
    return tuple(
        FilterRule(call, ALLOW, (Compare(argument, value, 0xFFFFFFFF),))
        for call, argument in NUMBERED.items()
        if call not in _RANKING
        for value in _OWN_NUMBERS
    )


#: Conditions that only a cell may have: its own tasks. Setting its own limits is asked for: hard ones are the host's.
CONDITIONAL_CELL: tuple[FilterRule, ...] = _numbered()
#: What takes the place of notifications where there is no listener: calls whose arguments are in memory do not exist.
UNREADABLE: tuple[FilterRule, ...] = tuple(FilterRule(call, refuse(errno.ENOSYS)) for call in ("clone3", "openat2"))
UNWATCHED: tuple[FilterRule, ...] = (
    *UNREADABLE,
    *(FilterRule(call) for call in (*NUMBERED, "setrlimit", "capset")),
    FilterRule("prlimit64", ALLOW, (Compare(0, 0),)),
    *_values("fcntl", 1, tuple(_LOCKS.values())),
)
#: For a cell whose network the programs of its control group decide; nothing else of these two calls is allowed there.
CONDITIONAL_NATIVE: tuple[FilterRule, ...] = _native_sockets()
#: For a cell whose policy lets it fork: no namespace, no tracing.
FORKING: tuple[FilterRule, ...] = (
    FilterRule("clone", ALLOW, (Compare(0, 0, CLONE_NEW | _CLONE_PTRACE),)),
    FilterRule("fork"),
    FilterRule("vfork"),
)
#: What a sandbox thread needs of the cell-only groups, by value: itself as the target.
CONDITIONAL_THREAD: tuple[FilterRule, ...] = tuple(
    FilterRule(call, ALLOW, (Compare(0, 0),)) for call in ("sched_setaffinity", "sched_setattr")
)

#: File calls that the "full" telemetry variant also reports; Landlock or BPF-LSM still decides.
REPORTED_WHEN_FULL: dict[str, Capability] = dict.fromkeys(_words("open openat"), Capability.FS_READ) | dict.fromkeys(
    _words("truncate"), Capability.FS_WRITE
) | dict.fromkeys(
    _words("creat mkdir mkdirat mknod mknodat link linkat symlink symlinkat rename renameat renameat2"),
    Capability.FS_CREATE,
) | dict.fromkeys(_words("unlink unlinkat rmdir"), Capability.FS_DELETE) | dict.fromkeys(
    _words("chmod fchmodat fchmodat2 chown lchown fchownat utime utimes utimensat futimesat setxattr lsetxattr "
           "removexattr lremovexattr fchmod fchown fsetxattr fremovexattr"),
    Capability.FS_METADATA,
) | dict.fromkeys(
    _words("stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat chdir "
           "statfs getxattr lgetxattr listxattr llistxattr"),
    Capability.FS_LOOKUP,
)  # fmt: skip
#: Calls of these that are about an open file, as fstat(3) makes them.
LOOKS_AT_OPEN: tuple[FilterRule, ...] = tuple(
    FilterRule(call, ALLOW, (Compare(argument, _AT_EMPTY_PATH, _AT_EMPTY_PATH),))
    for call, argument in (("newfstatat", 3), ("statx", 2))
)

#: Look-ups that the preloaded library makes (native/src/preload/lookups.c).
QUIET_LOOKS: dict[str, int | None] = dict.fromkeys(
    _words("newfstatat statx faccessat faccessat2 readlinkat chdir statfs getxattr lgetxattr listxattr llistxattr"),
    None,
)
#: Of the others, what the preloaded library makes (native/src/preload/files.c), with the argument that holds a mode.
QUIET: dict[str, int | None] = dict.fromkeys(
    _words("""mkdirat unlinkat renameat2 linkat symlinkat truncate fchownat fchown utimensat
        setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"""),
    None,
) | {"openat": 3, "fchmodat": 2, "fchmod": 1}

#: ioctl(2) requests that type into a terminal: a hook asks about these alone.
TERMINAL_IOCTLS = frozenset({0x5412, 0x541C})  # TIOCSTI, TIOCLINUX
#: Calls that a hook asks about before they are made. The broker was never consulted about any other.
HOOKED = frozenset(
    _words("""socket connect bind listen sendto sendmsg sendmmsg clone fork vfork execve execveat getrandom
        chroot unshare setns ioctl kill tkill tgkill rt_sigqueueinfo pidfd_send_signal""")
) | frozenset(call for call, capability in REPORTED_WHEN_FULL.items() if capability is not Capability.FS_LOOKUP)

_REFUSED: dict[Capability, str] = {
    Capability.NET_SOCKET: "socket socketpair setsockopt",
    Capability.NET_CONNECT: "connect",
    Capability.NET_BIND: "bind",
    Capability.NET_LISTEN: "listen",
    Capability.NET_SEND: "sendto sendmsg sendmmsg",
    Capability.PROCESS_EXEC: "execve execveat",
    Capability.PROCESS_FORK: "clone clone3 fork vfork",
    Capability.PROCESS_SIGNAL: """kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_open
        setitimer alarm timer_create timer_settime setsid setpgid""",
    Capability.PROCESS_TRACE: """ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp get_robust_list
        process_madvise process_mrelease move_pages migrate_pages get_thread_area prlimit64 setrlimit setpriority
        sched_setscheduler sched_setparam sched_setattr sched_setaffinity""",
    Capability.PRIORITY_IO: "ioprio_set ioprio_get",
    Capability.IMPORT_NATIVE: "memfd_create uselib",
    Capability.RANDOM_READ: "getrandom",
    Capability.MEMORY_EXEC: """mmap mprotect pkey_mprotect remap_file_pages map_shadow_stack personality
        memfd_secret""",
    Capability.IPC_SYSV: "shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl",
    Capability.IPC_POSIX: "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    Capability.FS_METADATA: """inotify_init inotify_init1 inotify_add_watch inotify_rm_watch chdir fchdir umask
        chmod fchmod fchmodat fchmodat2 setxattrat getxattrat listxattrat removexattrat
        file_getattr file_setattr""",
    Capability.FS_CREATE: "open openat openat2 creat mknod mknodat",
    Capability.KERNEL_MOUNT: """mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig
        fsmount fspick mount_setattr statmount listmount swapon swapoff quotactl quotactl_fd nfsservctl
        fanotify_init fanotify_mark name_to_handle_at open_by_handle_at lookup_dcookie sysfs ustat""",
    Capability.KERNEL_NAMESPACE: "unshare setns sethostname setdomainname close_range",
    Capability.KERNEL_BPF: "bpf",
    Capability.KERNEL_PERF: "perf_event_open",
    Capability.KERNEL_MODULE: """init_module finit_module delete_module create_module query_module get_kernel_syms
        kexec_load kexec_file_load""",
    Capability.KERNEL_KEYS: "add_key request_key keyctl",
    Capability.KERNEL_IO_URING: "io_uring_setup io_uring_enter io_uring_register",
    Capability.KERNEL_CAPABILITY: """capset setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid
        setgroups reboot settimeofday clock_settime clock_adjtime adjtimex syslog acct vhangup iopl ioperm
        modify_ldt set_thread_area""",
    Capability.KERNEL_IOCTL: "ioctl",
    Capability.KERNEL_SYSCALL: """fcntl prctl arch_prctl sync syncfs seccomp userfaultfd vmsplice io_setup io_submit
        io_destroy io_cancel io_getevents io_pgetevents landlock_create_ruleset landlock_add_rule landlock_restrict_self
        lsm_get_self_attr lsm_set_self_attr lsm_list_modules cachestat rseq_slice_yield afs_syscall tuxcall security
        getpmsg putpmsg vserver _sysctl set_mempolicy_home_node""",
}

#: The capability that a refused call asks for. A call that is not in it is unknown: ENOSYS and `kernel.syscall`.
CAPABILITY_OF: dict[str, Capability] = {
    call: capability for capability, calls in _REFUSED.items() for call in calls.split()
}

#: Calls that make a descriptor; a full table is reported (native/src/preload/limits.c, files.c).
LIMITED = frozenset(_words("open openat dup pipe2 socket socketpair epoll_create1 eventfd2"))

#: Which argument is a path, for the target of a record; the directory descriptor, if any, comes right before it.
PATH_ARGUMENT: dict[str, int] = {
    **dict.fromkeys(
        _words("""open creat truncate mkdir mknod rmdir unlink rename link chmod chown lchown utime utimes
            setxattr lsetxattr removexattr lremovexattr execve chroot chdir umount2 swapon swapoff acct uselib
            stat lstat access readlink statfs getxattr lgetxattr listxattr llistxattr"""),
        0,
    ),
    **dict.fromkeys(
        _words("""openat openat2 mkdirat mknodat unlinkat renameat renameat2 linkat fchmodat fchmodat2 fchownat
            utimensat futimesat execveat open_tree mount inotify_add_watch name_to_handle_at mount_setattr pivot_root
            fspick move_mount symlink newfstatat statx faccessat faccessat2 readlinkat"""),
        1,
    ),
    "symlinkat": 2,
    **dict.fromkeys(_words("fchmod fchown fsetxattr fremovexattr"), DESCRIPTOR),  # of an open file, the first argument
}
#: Calls that give two names, one of what is there and one of what it is to be called (native/src/notify/target.c).
TWO_NAMES = frozenset(_words("rename renameat renameat2 link linkat"))
