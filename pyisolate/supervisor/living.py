"""Every supervisor that is not closed: closed at exit, abandoned in a forked child of the host."""

from __future__ import annotations

import atexit
import weakref
from typing import Protocol

from ..native.forked import call_in_child
from ..sandbox import process_end


class Living(Protocol):
    """A supervisor's runtime, as far as the end of the process concerns it."""

    def close(self) -> None:
        """End every sandbox and give everything back."""

    def abandon(self) -> None:
        """In a forked child of the host: touch nothing that is the parent's."""


_living: weakref.WeakSet[Living] = weakref.WeakSet()


def add(one: Living) -> None:
    """Close `one` when the process ends."""
    _living.add(one)


def discard(one: Living) -> None:
    """It is closed."""
    _living.discard(one)


def _close_all() -> None:
    process_end.begin()
    for one in list(_living):
        one.close()


@call_in_child
def _abandon_all() -> None:
    for one in list(_living):
        one.abandon()


atexit.register(_close_all)
