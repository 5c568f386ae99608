"""What a supervisor tells the metrics of the moment: its live sandboxes, and its cells that wait."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..choices import Isolation

#: Cells that wait for a `spawn`: warm for any policy, confined for one, or being forked.
CellState = Literal["ready", "standby", "starting"]


class SandboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """One live sandbox, as a supervisor's `snapshot` tells of it. `cpu_s` and `host_held_s` are
    its totals so far.

    `sandbox_id` is never shown; it keeps the processor time exact when a scrape meets a sandbox's end.
    """

    sandbox_id: str
    policy: str
    isolation: Isolation = "process"
    state: str = "running"
    cpu_s: float = 0.0
    memory_bytes: int = 0
    host_held_s: float = 0.0
    #: to the egress proxy; None where it is not led there
    egress_connections: int | None = None
