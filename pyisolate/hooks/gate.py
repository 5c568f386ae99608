"""The one switch between wrappers that a zygote installs and the hooks that a cell gets at hand-out.

While `hooks` is None everything installed is inert: it calls straight through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .guest_hooks import GuestHooks


class Gate:
    """Holds the process-wide hooks of a cell."""

    __slots__ = ("hooks",)

    def __init__(self) -> None:
        self.hooks: GuestHooks | None = None


GATE = Gate()
