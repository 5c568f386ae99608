"""Landlock's system calls and rights. Sources: landlock(7), linux/landlock.h, Documentation/userspace-api/landlock.rst.

First kernel: 5.13 (ABI 1). ABI 2 is 5.19, 3 is 6.2, 4 is 6.7, 5 is 6.10, 6 is 6.12, 7 is 6.15.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from . import _native
from .result import check

_ffi, _lib = _native.ffi, _native.lib


class AccessFs(enum.IntFlag):
    """LANDLOCK_ACCESS_FS_*. The comment gives the first ABI that handles the right."""

    EXECUTE = 1 << 0  # 1
    WRITE_FILE = 1 << 1  # 1
    READ_FILE = 1 << 2  # 1
    READ_DIR = 1 << 3  # 1
    REMOVE_DIR = 1 << 4  # 1
    REMOVE_FILE = 1 << 5  # 1
    MAKE_CHAR = 1 << 6  # 1
    MAKE_DIR = 1 << 7  # 1
    MAKE_REG = 1 << 8  # 1
    MAKE_SOCK = 1 << 9  # 1
    MAKE_FIFO = 1 << 10  # 1
    MAKE_BLOCK = 1 << 11  # 1
    MAKE_SYM = 1 << 12  # 1
    REFER = 1 << 13  # 2; without it renames and links across directories are refused (EXDEV) on every ABI
    TRUNCATE = 1 << 14  # 3
    IOCTL_DEV = 1 << 15  # 5


class AccessNet(enum.IntFlag):
    """LANDLOCK_ACCESS_NET_*, both since ABI 4. TCP only."""

    BIND_TCP = 1 << 0
    CONNECT_TCP = 1 << 1


class Scope(enum.IntFlag):
    """LANDLOCK_SCOPE_*, both since ABI 6: neither reaches out of the domain."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


class RestrictFlag(enum.IntFlag):
    """LANDLOCK_RESTRICT_SELF_*, since ABI 7: what the kernel's audit log records of this domain."""

    LOG_SAME_EXEC_OFF = 1 << 0
    LOG_NEW_EXEC_ON = 1 << 1
    LOG_SUBDOMAINS_OFF = 1 << 2


#: Rights that mean something on a file that is not a directory (ACCESS_FILE in security/landlock/fs.c); a rule on a
#: file with any other right is refused with EINVAL.
FILE_RIGHTS = AccessFs.EXECUTE | AccessFs.WRITE_FILE | AccessFs.READ_FILE | AccessFs.TRUNCATE | AccessFs.IOCTL_DEV

_FS_SINCE = ((1, AccessFs((1 << 13) - 1)), (2, AccessFs.REFER), (3, AccessFs.TRUNCATE), (5, AccessFs.IOCTL_DEV))
_NET_SINCE = 4
_SCOPE_SINCE = 6
LOG_FLAGS_SINCE = 7


class Handled(NamedTuple):
    """What a ruleset takes charge of: everything handled and not granted is refused."""

    fs: AccessFs
    net: AccessNet
    scoped: Scope


class ProbeResult(NamedTuple):
    """Outcome of a live probe: `failed_step` is None when a denial and an allowance were both seen."""

    failed_step: str | None
    error: int
    tcp_denied: bool
    signal_denied: bool


_STEPS = (
    "",
    "open both directories before restriction",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "prctl PR_SET_NO_NEW_PRIVS",
    "landlock_restrict_self",
    "open the granted directory",
    "see the other directory denied",
)


def abi_version() -> int:
    """Return the kernel's Landlock ABI. Raises OSError: ENOSYS not built in, EOPNOTSUPP off at boot."""
    return check(_lib.landlock_abi_version(), "landlock_create_ruleset", "version")


def errata() -> int:
    """Return the bits of fixed errata (6.15+), 0 where the kernel does not say."""
    result: int = _lib.landlock_errata()
    return max(result, 0)


def handled_for(abi: int) -> Handled:
    """Return every right and scope that a kernel with this ABI can handle."""
    fs = AccessFs(0)
    for since, rights in _FS_SINCE:
        if abi >= since:
            fs |= rights
    net = AccessNet.BIND_TCP | AccessNet.CONNECT_TCP if abi >= _NET_SINCE else AccessNet(0)
    scoped = Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if abi >= _SCOPE_SINCE else Scope(0)
    return Handled(fs, net, scoped)


def create_ruleset(handled: Handled) -> int:
    """Return a close-on-exec descriptor of a new, empty ruleset."""
    return check(
        _lib.landlock_create(int(handled.fs), int(handled.net), int(handled.scoped)), "landlock_create_ruleset"
    )


def add_path_rule(ruleset_fd: int, allowed: AccessFs, path_fd: int, path: str = "") -> None:
    """Grant `allowed` on the file or hierarchy of `path_fd` (O_PATH is enough); `path` is for the error text."""
    check(_lib.landlock_add_path(ruleset_fd, int(allowed), path_fd), "landlock_add_rule", path or path_fd)


def add_port_rule(ruleset_fd: int, allowed: AccessNet, port: int) -> None:
    """Grant `allowed` on a TCP port; port 0 with BIND_TCP grants ports that the kernel picks. ABI 4."""
    check(_lib.landlock_add_port(ruleset_fd, int(allowed), port), "landlock_add_rule", f"port {port}")


def restrict_self(ruleset_fd: int, flags: RestrictFlag = RestrictFlag(0)) -> None:  # noqa: B008 - an immutable int
    """Confine this thread and what it starts from now on, for good. Needs no_new_privs; at most 16 layers."""
    check(_lib.landlock_restrict(ruleset_fd, int(flags)), "landlock_restrict_self")


def probe(granted: str, outside: str, abi: int) -> ProbeResult:
    """Confine a short-lived child to directory `granted` and try to open both; safe in a threaded process.

    Also tries a TCP connect (ABI 4) and a signal to the parent (ABI 6), which must be refused.
    """
    handled = handled_for(abi)
    result = _ffi.new("struct landlock_probe_result *")
    outcome = _lib.landlock_probe(
        granted.encode(), outside.encode(), int(handled.fs), int(AccessFs.READ_DIR), int(handled.net),
        int(handled.scoped), result,
    )  # fmt: skip
    check(outcome, "clone", "Landlock probe")
    step = _STEPS[result.step] if result.step else None
    return ProbeResult(step, result.error, bool(result.tcp_denied), bool(result.signal_denied))
