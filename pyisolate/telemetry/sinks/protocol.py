"""What a sink of events is: the `EventSink` Protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..event import DenialEvent


@runtime_checkable
class EventSink(Protocol):
    """Takes events. Called from one thread at a time, off the refusal's path, unless `immediate` is true."""

    def emit(self, event: DenialEvent) -> None:
        """Take one event. Whatever it raises is counted and logged, and stops nothing else."""
        ...

    def close(self) -> None:
        """Flush and let go of resources; `emit` is not called again."""
        ...


def is_immediate(sink: EventSink) -> bool:
    """Tell whether the sink asks to be called before the refusal is seen (it promises not to block)."""
    return bool(getattr(sink, "immediate", False))
