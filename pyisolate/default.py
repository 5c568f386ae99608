"""The process's default supervisor, and what becomes of all supervisors at exit and after a fork of the host."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .supervisor import Supervisor

#: Every supervisor that has not been closed.
living: weakref.WeakSet[Supervisor] = weakref.WeakSet()
_default: Supervisor | None = None
_default_lock = threading.Lock()


def default_supervisor() -> Supervisor:
    """Return the process's default supervisor; starts with the first `spawn`, ends with the process."""
    global _default
    with _default_lock:
        if _default is None or _default._state == "closed":
            from .supervisor import Supervisor

            _default = Supervisor()
        return _default


def _close_all() -> None:
    for supervisor in list(living):
        supervisor.close()


def _after_fork_in_child() -> None:
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()
    for supervisor in list(living):
        supervisor.after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
