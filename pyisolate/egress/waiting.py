"""What the proxy's loop waits with: while it waits, its thread carries known exchanges over TLS, in C.

A thread of their own would wait for the interpreter's lock beside the loop's: TLS is the interpreter's own.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..native.tunnels import Tunnels

_T = TypeVar("_T")


class Waiting(selectors.EpollSelector):
    """A selector that carries `tunnels` until one of its own descriptors is ready."""

    def __init__(self) -> None:
        super().__init__()
        #: to be closed before it
        self.tunnels: Tunnels | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, after so many seconds at most; None: without an end, 0: at once."""
        if self.tunnels is None or not self.tunnels.any:
            return super().select(timeout)
        if not self.tunnels.turn(None if timeout is None else max(0.0, timeout)):
            return []
        return super().select(0)


def run(main: Coroutine[Any, Any, _T], waits: Waiting | None) -> _T:
    """Run `main` to its end on a loop that waits with `waits`, and close both; None: as any loop does."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(waits)) as runner:
        return runner.run(main)
