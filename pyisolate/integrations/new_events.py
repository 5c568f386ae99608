"""Which of a sandbox's events are new: those of one task, call or command."""

from __future__ import annotations

import msgspec

from ..sandbox.process import Sandbox
from ..telemetry.event import DenialEvent


class NewEvents:
    """Remembers what was seen of one sandbox. A repeat adds to the count of an event that was there before."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def take(self, sandbox: Sandbox) -> tuple[DenialEvent, ...]:
        """Return what came since the last time, each event with the count of since then."""
        events = sandbox.get_denial_events()
        new = tuple(
            msgspec.structs.replace(event, count=event.count - before)
            for event in events
            if event.count > (before := self._seen.get(event.event_id, 0))
        )
        self._seen = {event.event_id: event.count for event in events}
        return new

    def forget(self) -> None:
        """Begin with another sandbox."""
        self._seen.clear()
