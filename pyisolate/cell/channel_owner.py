"""Who handles what one cell sends: its session, once it is a sandbox."""

from __future__ import annotations

from typing import Protocol

from . import wire


class ChannelOwner(Protocol):
    """Receives the frames of one cell: a `Sandbox`, or the pool before hand-out."""

    def on_denial(self, frame: wire.Denial) -> None:
        """Handle a record of the guest's broker."""

    def on_message(self, frame: wire.GuestMessage) -> None:
        """Handle an object that the guest posted."""

    def on_shown(self, frame: wire.Shown) -> None:
        """Handle what the guest displays."""

    def on_host_call(self, frame: wire.HostCall | wire.GaveUp) -> None:
        """Handle a call of a function of the host, or its end without an answer; must not run it here."""

    def on_output(self, stream: str, data: bytes) -> None:
        """Handle output; `stream` is stdout or stderr."""

    def on_ended(self, reason: str) -> None:
        """Handle the end of the cell: end of file, or a broken protocol (`reason` says)."""
