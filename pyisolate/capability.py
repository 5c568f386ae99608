"""The capability vocabulary: the kinds of operation that policies, decisions and events speak of.

One closed enumeration, so that a typing error in a policy, a hook or an alert is an error and not a rule that
never matches. `FLOOR` names the capabilities that no policy can grant, `ASKED` those that a hook asks the broker about.
"""

from __future__ import annotations

import enum


class Capability(enum.StrEnum):
    """One kind of operation. The value is the text used in policies, events and metrics."""

    FS_READ = "fs.read"
    FS_WRITE = "fs.write"
    FS_CREATE = "fs.create"
    FS_DELETE = "fs.delete"
    FS_METADATA = "fs.metadata"
    FS_EXEC = "fs.exec"
    NET_CONNECT = "net.connect"
    NET_BIND = "net.bind"
    NET_LISTEN = "net.listen"
    NET_SEND = "net.send"
    NET_SOCKET = "net.socket"
    PROCESS_EXEC = "process.exec"
    PROCESS_FORK = "process.fork"
    PROCESS_SIGNAL = "process.signal"
    PROCESS_TRACE = "process.trace"
    IMPORT_MODULE = "import.module"
    IMPORT_NATIVE = "import.native"
    RANDOM_READ = "random.read"
    MEMORY_EXEC = "memory.exec"
    IPC_SYSV = "ipc.sysv"
    IPC_POSIX = "ipc.posix"
    IPC_UNIX = "ipc.unix"
    KERNEL_MOUNT = "kernel.mount"
    KERNEL_NAMESPACE = "kernel.namespace"
    KERNEL_BPF = "kernel.bpf"
    KERNEL_PERF = "kernel.perf"
    KERNEL_MODULE = "kernel.module"
    KERNEL_KEYS = "kernel.keys"
    KERNEL_IO_URING = "kernel.io_uring"
    KERNEL_CAPABILITY = "kernel.capability"
    KERNEL_IOCTL = "kernel.ioctl"
    KERNEL_SYSCALL = "kernel.syscall"
    LIMIT_WALL = "limit.wall"
    LIMIT_CPU = "limit.cpu"
    LIMIT_MEMORY = "limit.memory"
    LIMIT_PROCESSES = "limit.processes"
    LIMIT_OPEN_FILES = "limit.open_files"
    LIMIT_FILE_SIZE = "limit.file_size"
    LIMIT_OUTPUT = "limit.output"
    LIMIT_MESSAGES = "limit.messages"
    CONTROL_RELOAD = "control.reload"
    CONTROL_KILL = "control.kill"
    CONTROL_METRICS = "control.metrics"
    CONTROL_GUARD = "control.guard"
    #: some file operation: a kernel counter tells that it was refused, not which it was
    FS_ACCESS = "fs.access"


#: Never granted by any policy: process.trace and process.signal are floor only for targets outside the sandbox.
FLOOR = frozenset(c for c in Capability if c.value.startswith("kernel.")) | {Capability.PROCESS_TRACE}

#: What hooks in the guest's interpreter ask the broker about, under this name or another (a unix socket is asked about
#: as net.*, a program file as process.exec). It is never asked about the rest.
ASKED = frozenset(c for c in Capability if c.value.startswith(("fs.", "net.", "import."))) | {
    Capability.PROCESS_EXEC,
    Capability.PROCESS_FORK,
    Capability.PROCESS_SIGNAL,
    Capability.RANDOM_READ,
    Capability.IPC_UNIX,
    Capability.KERNEL_IOCTL,
    Capability.KERNEL_MOUNT,
    Capability.KERNEL_NAMESPACE,
}

#: Stable small integers shared with BPF programs, the notification listener and the slots (never renumber).
CAPABILITY_NUMBER: dict[Capability, int] = {c: i + 1 for i, c in enumerate(Capability)}
CAPABILITY_BY_NUMBER: dict[int, Capability] = {i: c for c, i in CAPABILITY_NUMBER.items()}
