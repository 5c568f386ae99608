"""The capability catalogue: every kind of operation, and what each layer must know of it, once.

One closed enumeration, so that a typing error in a policy, a hook or an alert is an error and not a rule that never
matches. `CATALOGUE` has a row for each: its number in C and BPF, the rule group whose mode applies, the right or the
action of rules that speak of it, whether it is the floor, and whether hooks ask the broker about it. Broker, listener,
BPF tables, suggestions and reports read the catalogue; `python -m pyisolate.capability` writes the C headers
from it (`make lint` and a test say when they are out of date).
"""

from __future__ import annotations

import enum
from typing import NamedTuple


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
    #: the memory of a sandbox's own files
    LIMIT_WORKSPACE = "limit.workspace"
    #: the guest calls a function of the host
    CONTROL_CALL = "control.call"
    #: a request or a tunnel that the guest asks the egress proxy for
    NET_HTTP = "net.http"
    #: a file is looked at (stat, access, chdir, readlink, statfs, getxattr): nothing is found where nothing is granted
    FS_LOOKUP = "fs.lookup"
    #: the sum of what a guest's files hold, and how many there are
    LIMIT_DISK = "limit.disk"
    LIMIT_FILES = "limit.files"
    #: whose requests a disk serves first (ioprio_set): of the sandbox's own processes
    PRIORITY_IO = "priority.io"

    #: the part before the dot: fs, net, process, import, random, memory, ipc, priority, kernel, limit, control
    family: str

    def __init__(self, value: str) -> None:
        self.family = value.partition(".")[0]


class FsRight(enum.IntFlag):
    """Rights of a file rule, one bit per `fs.*` capability. Shared with the BPF programs: never renumber."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    METADATA = 16
    EXEC = 32
    #: executable mappings of native modules (import.native); not a policy key of its own
    MAP_EXEC = 64
    #: listing this one directory (not what lies below), so that importlib finds granted modules in a site directory
    LIST = 128


class NetAction(enum.IntEnum):
    """What a net rule speaks of. Shared with the BPF programs and the notification listener: never renumber."""

    CONNECT = 1
    BIND = 2


class Entry(NamedTuple):
    """What layers know of one capability.

    `number` is its number in C, BPF and slots: never renumber. `group` names the rule group whose mode applies; for
    those that no group has (the floor, limits, control) it is the family, whose mode is the policy's. `right` is the
    file right that grants it, `action` the action of net rules. The floor is never granted. `asked`: hooks in the
    guest's interpreter ask the broker about it, under this name or another (a unix socket is asked about as net.*).
    """

    number: int
    group: str
    right: FsRight | None = None
    action: NetAction | None = None
    floor: bool = False
    asked: bool = False


_C, _R, _N = Capability, FsRight, NetAction

CATALOGUE: dict[Capability, Entry] = {
    _C.FS_READ: Entry(1, "fs", right=_R.READ, asked=True),
    _C.FS_WRITE: Entry(2, "fs", right=_R.WRITE, asked=True),
    _C.FS_CREATE: Entry(3, "fs", right=_R.CREATE, asked=True),
    _C.FS_DELETE: Entry(4, "fs", right=_R.DELETE, asked=True),
    _C.FS_METADATA: Entry(5, "fs", right=_R.METADATA, asked=True),
    _C.FS_EXEC: Entry(6, "fs", right=_R.EXEC, asked=True),
    _C.NET_CONNECT: Entry(7, "net", action=_N.CONNECT, asked=True),
    _C.NET_BIND: Entry(8, "net", action=_N.BIND, asked=True),
    _C.NET_LISTEN: Entry(9, "net", action=_N.BIND, asked=True),
    _C.NET_SEND: Entry(10, "net", action=_N.CONNECT, asked=True),
    _C.NET_SOCKET: Entry(11, "net", asked=True),
    _C.PROCESS_EXEC: Entry(12, "process", right=_R.EXEC, asked=True),
    _C.PROCESS_FORK: Entry(13, "process", asked=True),
    _C.PROCESS_SIGNAL: Entry(14, "process", asked=True),
    #: the floor for targets outside the sandbox, and no rule speaks of those inside
    _C.PROCESS_TRACE: Entry(15, "process", floor=True),
    _C.IMPORT_MODULE: Entry(16, "import", asked=True),
    _C.IMPORT_NATIVE: Entry(17, "import", right=_R.MAP_EXEC, asked=True),
    _C.RANDOM_READ: Entry(18, "random", asked=True),
    _C.MEMORY_EXEC: Entry(19, "import"),
    _C.IPC_SYSV: Entry(20, "process"),
    _C.IPC_POSIX: Entry(21, "process"),
    _C.IPC_UNIX: Entry(22, "net", action=_N.CONNECT, asked=True),
    _C.KERNEL_MOUNT: Entry(23, "kernel", floor=True, asked=True),
    _C.KERNEL_NAMESPACE: Entry(24, "kernel", floor=True, asked=True),
    _C.KERNEL_BPF: Entry(25, "kernel", floor=True),
    _C.KERNEL_PERF: Entry(26, "kernel", floor=True),
    _C.KERNEL_MODULE: Entry(27, "kernel", floor=True),
    _C.KERNEL_KEYS: Entry(28, "kernel", floor=True),
    _C.KERNEL_IO_URING: Entry(29, "kernel", floor=True),
    _C.KERNEL_CAPABILITY: Entry(30, "kernel", floor=True),
    _C.KERNEL_IOCTL: Entry(31, "kernel", floor=True, asked=True),
    _C.KERNEL_SYSCALL: Entry(32, "kernel", floor=True),
    _C.LIMIT_WALL: Entry(33, "limit"),
    _C.LIMIT_CPU: Entry(34, "limit"),
    _C.LIMIT_MEMORY: Entry(35, "limit"),
    _C.LIMIT_PROCESSES: Entry(36, "limit"),
    _C.LIMIT_OPEN_FILES: Entry(37, "limit"),
    _C.LIMIT_FILE_SIZE: Entry(38, "limit"),
    _C.LIMIT_OUTPUT: Entry(39, "limit"),
    _C.LIMIT_MESSAGES: Entry(40, "limit"),
    _C.CONTROL_RELOAD: Entry(41, "control"),
    _C.CONTROL_KILL: Entry(42, "control"),
    _C.CONTROL_METRICS: Entry(43, "control"),
    _C.CONTROL_GUARD: Entry(44, "control"),
    _C.FS_ACCESS: Entry(45, "fs", asked=True),
    _C.LIMIT_WORKSPACE: Entry(46, "limit"),
    _C.CONTROL_CALL: Entry(47, "control"),
    _C.NET_HTTP: Entry(48, "net"),
    _C.FS_LOOKUP: Entry(49, "fs"),
    _C.LIMIT_DISK: Entry(50, "limit"),
    _C.LIMIT_FILES: Entry(51, "limit"),
    _C.PRIORITY_IO: Entry(52, "process"),
}

#: The rule groups that may have a mode of their own (`modes:` of a policy), in the order of policy files.
MODE_GROUPS = ("fs", "net", "process", "import", "random")
#: Never granted by any policy.
FLOOR = frozenset(capability for capability, entry in CATALOGUE.items() if entry.floor)
#: What hooks ask the broker about. It is never asked about the rest.
ASKED = frozenset(capability for capability, entry in CATALOGUE.items() if entry.asked)
#: Stable small integers shared with BPF programs, the notification listener and the slots.
CAPABILITY_NUMBER: dict[Capability, int] = {capability: entry.number for capability, entry in CATALOGUE.items()}
CAPABILITY_BY_NUMBER: dict[int, Capability] = {number: capability for capability, number in CAPABILITY_NUMBER.items()}


def of_family(*families: str) -> tuple[Capability, ...]:
    """Return the capabilities of the families, in the catalogue's order."""
    return tuple(capability for capability in CATALOGUE if capability.family in families)


# -- the C side -------------------------------------------------------------------------------------------------------

_WRITTEN = "/* Written by `python -m pyisolate.capability` from pyisolate/capability.py: do not edit. */"


def c_header() -> str:
    """Return the numbers as a C header, for BPF programs and native code alike (and for cffi)."""
    numbers = "".join(f"\tPYI_{capability.name} = {entry.number},\n" for capability, entry in CATALOGUE.items())
    return (
        f"{_WRITTEN}\n#ifndef PYI_CAPABILITY_H\n#define PYI_CAPABILITY_H\n\n"
        f"enum pyi_capability {{\n{numbers}}};\n\n#endif\n"
    )


def bpf_groups() -> str:
    """Return the C function that tells BPF programs which rule group's mode a capability follows."""
    cases = []
    for group in MODE_GROUPS:
        members = [c for c, entry in CATALOGUE.items() if entry.group == group and not entry.floor]
        cases += [f"\tcase PYI_{capability.name}:\n" for capability in members]
        cases.append(f"\t\treturn PYI_GROUP_{group.upper()};\n")
    return (
        f"{_WRITTEN}\n#ifndef PYI_GROUP_OF_BPF_H\n#define PYI_GROUP_OF_BPF_H\n\n"
        "/* The rule group whose mode a capability follows; the floor's is never monitored. */\n"
        "static __always_inline u32 pyi_group_of(u32 capability)\n{\n\tswitch (capability) {\n"
        f"{''.join(cases)}\tdefault:\n\t\treturn PYI_GROUP_FLOOR;\n\t}}\n}}\n\n#endif\n"
    )


def generated_files() -> dict[str, str]:
    """Return path below the project's root -> text of each file that is written from the catalogue."""
    return {
        "bpf/capability.h": c_header(),
        "bpf/group_of.bpf.h": bpf_groups(),
        "pyisolate/native/src/capability.h": c_header(),
    }


if __name__ == "__main__":
    from pathlib import Path

    for path, text in generated_files().items():
        (Path(__file__).resolve().parents[1] / path).write_text(text)
