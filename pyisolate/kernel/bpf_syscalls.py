"""What system calls are about, for the kernel's programs: `syscalls[number]` of bpf/pyisolate.h."""

from __future__ import annotations

import struct

from ..capability import CAPABILITY_NUMBER, Capability
from ..native import libbpf
from ..native.seccomp import number_of
from .syscall_table import CAPABILITY_OF

_ENTRIES = 512  # bpf/maps.bpf.h

C = Capability
#: call -> (capability, which argument is a path, which one an address); arguments count from 1
OBSERVED: dict[str, tuple[Capability, int, int]] = {
    **dict.fromkeys(("open", "creat"), (C.FS_READ, 1, 0)),
    **dict.fromkeys(("openat", "openat2"), (C.FS_READ, 2, 0)),
    **dict.fromkeys(("mkdir", "mknod", "link", "symlink"), (C.FS_CREATE, 1, 0)),
    **dict.fromkeys(("mkdirat", "mknodat", "linkat", "symlinkat"), (C.FS_CREATE, 2, 0)),
    **dict.fromkeys(("unlink", "rmdir", "rename"), (C.FS_DELETE, 1, 0)),
    **dict.fromkeys(("unlinkat", "renameat", "renameat2"), (C.FS_DELETE, 2, 0)),
    "truncate": (C.FS_WRITE, 1, 0),
    **dict.fromkeys(("chmod", "chown", "lchown", "utime", "utimes", "setxattr", "lsetxattr"), (C.FS_METADATA, 1, 0)),
    **dict.fromkeys(("fchmodat", "fchownat", "utimensat", "futimesat"), (C.FS_METADATA, 2, 0)),
    **dict.fromkeys(("stat", "lstat", "access", "chdir", "readlink"), (C.FS_METADATA, 1, 0)),
    **dict.fromkeys(("newfstatat", "statx", "faccessat", "faccessat2", "readlinkat"), (C.FS_METADATA, 2, 0)),
    "execve": (C.PROCESS_EXEC, 1, 0),
    "execveat": (C.PROCESS_EXEC, 2, 0),
    "mmap": (C.MEMORY_EXEC, 0, 0),
    "mprotect": (C.MEMORY_EXEC, 0, 0),
    "socket": (C.NET_SOCKET, 0, 0),
    "connect": (C.NET_CONNECT, 0, 2),
    "bind": (C.NET_BIND, 0, 2),
    "listen": (C.NET_LISTEN, 0, 0),
    "sendto": (C.NET_SEND, 0, 5),
    "kill": (C.PROCESS_SIGNAL, 0, 0),
    "ptrace": (C.PROCESS_TRACE, 0, 0),
    **dict.fromkeys(("clone", "fork", "vfork", "clone3"), (C.PROCESS_FORK, 0, 0)),
}


def fill(map_fd: int) -> None:
    """Write the table. Calls that this architecture does not have are left out."""
    for call in sorted({*OBSERVED, *CAPABILITY_OF}):
        number = number_of(call)
        if not 0 <= number < _ENTRIES:
            continue
        asked = CAPABILITY_OF.get(call)
        floor = CAPABILITY_NUMBER[asked] if asked is not None and asked.value.startswith("kernel.") else 0
        capability, path, address = OBSERVED.get(call, (None, 0, 0))
        observed = floor if capability is None else CAPABILITY_NUMBER[capability]
        libbpf.update(map_fd, struct.pack("=I", number), bytes((observed, path, address, floor)))
