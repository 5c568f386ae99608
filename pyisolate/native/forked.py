"""What a forked child of the host renews: locks that another thread may have held, threads and sockets of the parent.

One registry, because the order matters: every live object first, then the calls, in the order of their registration.
Light: nothing of the package is imported here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Protocol


class Renewable(Protocol):
    """An object that a forked child may go on using once it was renewed."""

    def renew_after_fork(self) -> None:
        """Replace what belongs to the parent. Runs in the child, before anything else does; must not raise."""
        ...


_objects: weakref.WeakSet[Renewable] = weakref.WeakSet()
_calls: list[Callable[[], None]] = []


def renew(one: Renewable) -> None:
    """Have `one` renewed in every forked child of this process, for as long as it lives."""
    _objects.add(one)


def call_in_child(call: Callable[[], None]) -> Callable[[], None]:
    """Have `call` run in every forked child, after the objects were renewed. A decorator."""
    _calls.append(call)
    return call


def _renew_all() -> None:
    for one in list(_objects):
        one.renew_after_fork()
    for call in _calls:
        call()


os.register_at_fork(after_in_child=_renew_all)
