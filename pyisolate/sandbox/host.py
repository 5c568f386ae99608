"""What a sandbox knows of its surroundings: seven calls of its supervisor, and the kernel's records of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio

    from ..capability import Capability
    from ..decision import Verdict
    from ..policy import Policy
    from ..records import SandboxContext

_T = TypeVar("_T")


class Host(Protocol):
    """The supervisor of a sandbox. A sandbox makes no other call of it."""

    def release(self, sandbox_id: str) -> None:
        """Note that a sandbox was closed: its descriptors and control group go back once its cell is reaped."""

    def authorize(self, token: str | None, operation: str, context: SandboxContext) -> None:
        """Raise PolicyAuthError unless `token` may do `operation` (reload, kill) to a sandbox."""

    def reload(self, sandbox_id: str, policy: Policy | str | os.PathLike[str]) -> None:
        """Put another policy in force. Raises EnforcementError where the kernel cannot."""

    async def run_blocking(self, call: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """Run a blocking call on a thread of the host; `undo` gets a result that comes after a cancellation."""
        ...

    def start_call(self, call: Callable[[], None]) -> None:
        """Run a call of a function of the host on a thread kept for these; returns at once."""

    def start_look(self, call: Callable[[], None]) -> None:
        """Run a look at a file, for which a file system may wait, on a thread kept for these; returns at once."""

    def start_thread(self, call: Callable[[], object]) -> None:
        """Run a call on a thread of its own, not confined as the caller is. Raises RuntimeError where it cannot."""

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop for functions of the host that are coroutines and have no loop of their own."""
        ...


class Reported(Protocol):
    """What a guest's broker had refused and had not reported when it ended."""

    @property
    def capability(self) -> Capability:
        """What was asked for."""
        ...

    @property
    def verdict(self) -> Verdict:
        """Deny, or would_deny."""
        ...


class KernelRecords(Protocol):
    """The kernel's records of one sandbox."""

    def quiet(self, pid: int) -> bool:
        """True where `drain` and `emit_uncounted` have nothing to do."""
        ...

    def drain(self) -> None:
        """Return once every record up to now has been delivered."""

    def emit_uncounted(self, pid: int) -> None:
        """Deliver one record per counter for refusals that the kernel counted and did not report; after `drain`."""

    def take_refusals(self) -> Sequence[tuple[Reported, int]]:
        """Return, once, how often an ended guest's broker had refused what."""
        ...
