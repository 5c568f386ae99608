"""Where `events` and `top` read from: audit logs, and the `/metrics` of a running supervisor."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent

#: A scrape larger than this is not ours.
_SCRAPE_LIMIT_BYTES = 16 << 20
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Filter:
    """Which events are wanted; patterns are shell patterns (`fs.*`)."""

    capability: str | None = None
    sandbox: str | None = None
    policy: str | None = None
    code: str | None = None
    target: str | None = None
    since: float | None = None

    def wants(self, event: DenialEvent) -> bool:
        """True for an event that every given pattern matches."""
        pairs = (
            (self.capability, event.capability.value),
            (self.sandbox, event.sandbox),
            (self.policy, event.policy),
            (self.code, event.code.value),
            (self.target, event.target),
        )
        if self.since is not None and event.time < self.since:
            return False
        return all(pattern is None or fnmatch.fnmatchcase(text, pattern) for pattern, text in pairs)


def parse_since(text: str | None) -> float | None:
    """Return the epoch second that "10m", "2h", "1d" ago or an ISO 8601 time stand for."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return time.time() - float(match[1]) * _UNITS[match[2]]
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise click.BadParameter(f"{text!r}: write 10m, 2h, 1d or an ISO 8601 time.", param_hint="--since") from None


def audit_path(given: str | None) -> str:
    """Return the audit log to read: the argument, or PYISOLATE_AUDIT_LOG."""
    path = given or os.environ.get("PYISOLATE_AUDIT_LOG")
    if not path:
        raise click.UsageError("name an audit log, or set PYISOLATE_AUDIT_LOG.")
    return path


def matching(events: Iterable[DenialEvent], wanted: Filter) -> Iterator[DenialEvent]:
    """Yield the events that are wanted."""
    return (event for event in events if wanted.wants(event))


def newest_and_following(path: str, wanted: Filter, last: int, timeout: float | None = None) -> Iterator[DenialEvent]:
    """Yield the newest `last` events of a log, then each new one; none twice and none left out.

    Ends after `timeout` quiet seconds. The log need not exist yet.
    """
    from ..telemetry.sinks.audit_reader import follow_events, read_events

    newest: deque[DenialEvent] = deque(maxlen=max(0, last))
    seen: set[str] = set()
    try:
        # In this order: what comes in between is then newest or new, but not left out.
        seen.update(event.event_id for event in read_events(path, rotated=False))
        newest.extend(matching(read_events(path), wanted))
    except FileNotFoundError:
        pass
    known = {event.event_id for event in newest} | seen
    yield from newest
    for event in follow_events(path, from_start=True, timeout=timeout):
        # What was read above is at the start of the file and comes once more.
        if event.event_id in known:
            known.discard(event.event_id)
        elif wanted.wants(event):
            yield event


# -- metrics --------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """One scrape, as far as `top` shows it."""

    time: float = 0.0
    sandboxes: dict[tuple[str, str], float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    denials: dict[tuple[str, ...], float] = field(default_factory=dict)
    exits: dict[str, float] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    lost: float = 0.0

    def by(self, index: int) -> dict[str, float]:
        """Return denials summed by one label: 0 capability, 1 code, 2 policy, 3 mode."""
        sums: dict[str, float] = {}
        for labels, value in self.denials.items():
            sums[labels[index]] = sums.get(labels[index], 0.0) + value
        return sums


def scrape(url: str, timeout_s: float = 2.0) -> str:
    """Return the text of a metrics endpoint. Raises OSError, ValueError."""
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: not an http address")
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        body: bytes = answer.read(_SCRAPE_LIMIT_BYTES)
    return body.decode("utf-8", "replace")


def read_metrics(text: str) -> Reading:
    """Return what a scrape says of pyisolate. Raises ValueError for text that is no exposition."""
    from prometheus_client.parser import text_string_to_metric_families

    reading = Reading(time=time.time())
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            _take(reading, sample.name, sample.labels, sample.value)
    return reading


def _take(reading: Reading, name: str, labels: dict[str, Any], value: float) -> None:
    if name == "pyisolate_denials_total":
        key = tuple(labels.get(label, "") for label in ("capability", "code", "policy", "mode"))
        reading.denials[key] = reading.denials.get(key, 0.0) + value
    elif name == "pyisolate_sandboxes":
        reading.sandboxes[labels.get("isolation", ""), labels.get("state", "")] = value
    elif name == "pyisolate_sandbox_memory_bytes":
        reading.memory[labels.get("policy", "")] = value
    elif name == "pyisolate_sandbox_cpu_seconds_total":
        reading.cpu[labels.get("policy", "")] = value
    elif name == "pyisolate_sandbox_exits_total":
        reading.exits[labels.get("reason", "")] = value
    elif name == "pyisolate_denial_events_lost_total":
        reading.lost += value
    elif name == "pyisolate_alert_active" and value:
        reading.alerts.append(labels.get("alert", ""))
