"""Which system calls belong to the floor, for the kernel's programs: `syscalls[number]` of bpf/pyisolate.h."""

from __future__ import annotations

import struct

from ...capability import CAPABILITY_NUMBER
from ...native import libbpf
from ...native.seccomp import number_of
from ..seccomp.syscalls import CAPABILITY_OF

_ENTRIES = 512  # bpf/maps.bpf.h


def fill(map_fd: libbpf.MapFd) -> None:
    """Write the table: calls of the floor. Calls that this architecture does not have are left out."""
    for call, capability in sorted(CAPABILITY_OF.items()):
        number = number_of(call)
        if capability.family == "kernel" and 0 <= number < _ENTRIES:
            libbpf.update(map_fd, struct.pack("=I", number), bytes((CAPABILITY_NUMBER[capability],)))
