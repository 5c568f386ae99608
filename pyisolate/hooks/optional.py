"""What the standard library tries and does without: programs, daemons and databases. Cells only.

Where a policy does not grant them, the library's own answer of "there is none" is given at once, so that an ordinary
call leaves no refusal of what was only tried. A database of users that the guest reads is one refusal.
"""

from __future__ import annotations

import _socket
import grp
import platform
import pwd
import socket
import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..capability import Capability as C
from ..capability import NetAction
from ..decision import Verdict
from ..errors import PolicyError
from ..policy.compiled import CompiledPolicy
from . import paths
from .active import GATE

#: What the functions of these modules read (nsswitch.conf(5), `files`).
_DATABASES: tuple[tuple[ModuleType, str], ...] = ((pwd, "/etc/passwd"), (grp, "/etc/group"))


def _may_run(program: str) -> bool:
    hooks = GATE.hooks
    if hooks is None:
        return True
    found = paths.executable(program)
    return found is not None and hooks.peek(C.PROCESS_EXEC, found).verdict is Verdict.ALLOW


def _with_program(original: Callable[..., Any], program: str, default: Any) -> Callable[..., Any]:
    """Wrap a function that runs a program and returns its last argument, else `default`, where there is none."""

    def call(*args: Any) -> Any:
        return original(*args) if _may_run(program) else args[1] if len(args) > 1 else default

    return call


def lookup(original: Callable[..., Any], file: str) -> Callable[..., Any]:
    """Wrap a function that looks up a user or group: a file that may not be read holds no name."""

    def call(*args: Any) -> Any:
        hooks = GATE.hooks
        if hooks is not None:
            try:
                hooks.ask(C.FS_READ, file)
            except PolicyError:
                if original.__name__.endswith("all"):
                    return []
                raise KeyError(f"{original.__name__}(): name not found") from None
        return original(*args)

    return call


def lookups() -> list[tuple[ModuleType, str, str]]:
    """Return module, function and file of every look-up."""
    return [
        (module, name, file)
        for module, file in _DATABASES
        for name in dir(module)
        if name.startswith(("getpw", "getgr"))
    ]


def install() -> None:
    """Replace them in this process, once: private names of the library, as CPython 3.11 to 3.13 have them."""
    # A daemon for clocks, and addresses of network cards: without them a node is random (RFC 9562, 6.10).
    vars(uuid).update(_generate_time_safe=None, _GETTERS=[])
    names = vars(platform)
    names["_syscmd_file"] = _with_program(names["_syscmd_file"], "file", "")
    processor = names["_Processor"]
    processor.from_subprocess = staticmethod(_with_program(processor.from_subprocess, "uname", None))


def fit(compiled: CompiledPolicy) -> None:
    """Say what a policy leaves of the platform: IPv6 where an address of it can be bound.

    Libraries try to bind one to find out, where `socket.has_ipv6` does not say so (urllib3, as it is imported).
    """
    binds = any(rule.allow and rule.action == NetAction.BIND and len(rule.address) == 16 for rule in compiled.net)
    socket.has_ipv6 = _socket.has_ipv6 = binds
