"""What the standard library tries and does without: programs, daemons and databases. Cells only.

Where a policy does not grant them, the library's own answer of "there is none" is given at once, so that an ordinary
call leaves no refusal of what was only tried. A database of users or services that the guest reads is one refusal.
"""

from __future__ import annotations

import _socket
import errno
import grp
import os
import platform
import pwd
import shutil
import socket
import syslog
import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..capability import Capability as C
from ..capability import NetAction
from ..errors import PolicyError
from ..native.frames import untraced
from ..policy.compiled import CompiledPolicy
from . import frames, paths
from .active import GATE, SERVICES, may_read, may_run

#: What the functions of these modules read (nsswitch.conf(5), `files`).
_DATABASES: tuple[tuple[ModuleType, str], ...] = ((pwd, "/etc/passwd"), (grp, "/etc/group"))
#: The same for names of ports and protocols: function of `_socket`, file, and what the function says of no such name.
_SERVICES = (
    ("getservbyname", SERVICES, "service/proto not found"),
    ("getservbyport", SERVICES, "port/proto not found"),
    ("getprotobyname", "/etc/protocols", "protocol not found"),
)
_OF_SYSTEM = ("/etc/os-release", "/usr/lib/os-release")


def _may_find(program: str) -> bool:
    """Tell whether a program is on the search path, and may be run."""
    if GATE.hooks is None:
        return True
    found = paths.executable(program)
    path = None if found is None else paths.reached(found)
    return path is not None and may_run(path)


def _with_program(original: Callable[..., Any], program: str, default: Any) -> Callable[..., Any]:
    """Wrap a function that runs a program and returns its last argument, else `default`, where there is none."""

    def call(*args: Any) -> Any:
        return original(*args) if _may_find(program) else args[1] if len(args) > 1 else default

    return untraced(call, original)  # type: ignore[no-any-return]


def lookup(original: Callable[..., Any], file: str) -> Callable[..., Any]:
    """Wrap a function that looks up a name: a file that may not be read holds none.

    Archives of `tarfile` name the owner of each file where that is known: it asks, and does without.
    """
    unknown = {name: said for name, _, said in _SERVICES}.get(original.__name__)

    def call(*args: Any) -> Any:
        hooks = GATE.hooks
        if hooks is not None:
            try:
                if may_read(file) or not frames.is_tarfile():
                    hooks.ask(C.FS_READ, file)
                    return original(*args)
            except PolicyError:
                if original.__name__.endswith("all"):
                    return []
                if unknown is not None:
                    raise OSError(unknown) from None
            raise KeyError(f"{original.__name__}(): name not found") from None
        return original(*args)

    return call


def lookups() -> list[tuple[ModuleType, str, str]]:
    """Return module, function and file of every look-up."""
    of_users = [
        (module, name, file)
        for module, file in _DATABASES
        for name in dir(module)
        if name.startswith(("getpw", "getgr"))
    ]
    return [*of_users, *((_socket, name, file) for name, file, _ in _SERVICES)]


def getlogin(original: Callable[[], str]) -> Callable[[], str]:
    """Wrap `os.getlogin`: a guest has no terminal at which a user logged in."""

    def getlogin() -> str:
        if GATE.hooks is not None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return original()

    return getlogin


def _os_release(original: Callable[[], dict[str, str]]) -> Callable[[], dict[str, str]]:
    """Wrap `platform.freedesktop_os_release`: where none of its files may be read, there is none."""

    def freedesktop_os_release() -> dict[str, str]:
        if not any(map(may_read, _OF_SYSTEM)):
            raise OSError(errno.ENOENT, f"Unable to read files {', '.join(_OF_SYSTEM)}")
        return original()

    return untraced(freedesktop_os_release, original)  # type: ignore[no-any-return]


def _which(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `shutil.which`: what `ctypes.util` looks for is not there where it may not be run."""

    def which(cmd: Any, *args: Any, **kwargs: Any) -> Any:
        if frames.tries_program() and not _may_find(cmd):
            return None
        return original(cmd, *args, **kwargs)

    return untraced(which, original)  # type: ignore[no-any-return]


def _syslog(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap `syslog.syslog`, which never raises for want of a daemon: what it is refused is an event, and no more."""

    def syslog(*args: Any) -> None:
        try:
            original(*args)
        except PolicyError:
            pass

    return untraced(syslog, original)  # type: ignore[no-any-return]


def install() -> None:
    """Replace them in this process, once: private names of the library, as CPython 3.11 to 3.13 have them."""
    # A daemon for clocks, and addresses of network cards: without them a node is random (RFC 9562, 6.10).
    vars(uuid).update(_generate_time_safe=None, _GETTERS=[])
    vars(syslog)["syslog"] = _syslog(syslog.syslog)
    vars(shutil)["which"] = _which(shutil.which)
    names = vars(platform)
    names["_syscmd_file"] = _with_program(names["_syscmd_file"], "file", "")
    names["freedesktop_os_release"] = _os_release(names["freedesktop_os_release"])
    processor = names["_Processor"]
    processor.from_subprocess = staticmethod(_with_program(processor.from_subprocess, "uname", None))


def fit(compiled: CompiledPolicy) -> None:
    """Say what a policy leaves of the platform: IPv6 where an address of it can be bound.

    Libraries try to bind one to find out, where `socket.has_ipv6` does not say so (urllib3, as it is imported).
    """
    binds = any(rule.allow and rule.action == NetAction.BIND and len(rule.address) == 16 for rule in compiled.net)
    socket.has_ipv6 = _socket.has_ipv6 = binds
