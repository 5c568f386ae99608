"""Denial telemetry: what each layer saw becomes one event, and the event goes everywhere it should.

event          the `DenialEvent`                              (light: the guest's side imports these three alone)
sanitize       text that is safe to print
merge          broker record + kernel record -> event
suggested      the rules that an event advises
guest_records  records that a guest reports: checked and capped
correlate      which two records belong to one operation
pipeline       all of that for one sandbox
recorder       event -> store -> counters -> audit log -> sinks -> alerts
store          one sandbox's events; counters, metrics, exposition: Prometheus; sinks/: audit log, webhook, OTel
formats        the same event in OCSF and ECS; schema: its JSON Schema
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .event import DenialEvent as DenialEvent


def __getattr__(name: str) -> Any:
    if name == "DenialEvent":  # when it is asked for: a guest imports this package and not always events
        from .event import DenialEvent

        return DenialEvent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
