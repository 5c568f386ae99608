"""What a supervisor and its zygotes say to each other. A host loads nothing of what runs in cells for it."""

from __future__ import annotations

import msgspec

from ..policy.compiled import CompiledPolicy
from . import wire
from .confine import CellSpec

#: A message to the supervisor, or the first from it. Orders are shorter (native/src/zygote_loop.types.h).
MAX_CONTROL_BYTES = 1 << 16


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """First control message to the zygote: what to preload, whom to become, what every cell is like."""

    host_pid: int
    preload: tuple[str, ...]
    spec: CellSpec
    drop_privileges: bool


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Fork `count` cells; where `forks`, with the filter that lets them fork without asking the listener."""

    count: int
    forks: bool = False


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Signal the cell whose guest is `pid`: for a supervisor that may not do so itself."""

    pid: int
    number: int


class Branch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Fork a policy zygote. Its control socket rides along, and a file that holds an encoded `BranchOrder`."""


class BranchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy zygote makes ahead of: the policy, and the hand-out that its standby cells will get, without it."""

    policy: CompiledPolicy
    init: wire.Init


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The zygote is warm. `failed_preloads` could not be imported: (name, why). A policy zygote's pidfd rides along."""

    pid: int
    failed_preloads: tuple[tuple[str, str], ...] = ()


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cell was forked; channel, stdout, stderr and its init's pidfd ride along. Or none was: `error`, `errno`.

    `pid` is the guest's, `init` that of the process above it: whatever runs in the cell is below that one.
    """

    pid: int = 0
    init: int = 0
    forks: bool = False
    error: str = ""
    errno: int | None = None


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cell ended and is reaped, the guest with `pid` and all that it had started.

    `status` is the guest's as wait(2) gives it; times in seconds; `max_rss_bytes` of the largest process.
    """

    pid: int
    status: int
    cpu_s: float
    max_rss_bytes: int


ZygoteMessage = Started | Forked | Exited
ZygoteOrder = Fork | Signal | Branch
