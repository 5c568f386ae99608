"""The host's handles to sandboxes.

process        `Sandbox`: a guest in a cell
thread         `SandboxThread`: a guest in a thread of this process
result         what a request returns
mailbox        messages that the guest posted
aio            the same methods for asyncio
host_executor  one unconfined thread that works for confined ones
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .process import Sandbox
    from .result import Result
    from .thread import SandboxThread

__all__ = ["Result", "Sandbox", "SandboxThread"]

#: Public name -> module that defines it; loaded when it is first used.
_HOME = {
    "Result": "result",
    "Sandbox": "process",
    "SandboxThread": "thread",
}


def __getattr__(name: str) -> Any:
    if (home := _HOME.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)
