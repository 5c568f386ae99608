"""The supervisor spawns sandboxes, watches, reaps and collects.

supervisor     `Supervisor`: spawn and close
options        the arguments of `Supervisor` and `spawn`, resolved
policy_cache   a policy's kernel tables, kept while they are used
assign         a warm cell becomes a sandbox
standby        cells confined ahead of `spawn`
reload         another policy for running sandboxes
control_token  who may change policies and sinks
host_errors    errors of the host, translated to `SandboxError`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .supervisor import Supervisor

__all__ = ["Supervisor"]

#: Public name -> module that defines it; loaded when it is first used.
_HOME = {
    "Supervisor": "supervisor",
}


def __getattr__(name: str) -> Any:
    if (home := _HOME.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)
