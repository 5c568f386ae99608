"""Alert rules over events: exact matches, sliding windows, one callback per firing and cool-down.

A rule fires for one group of events when more than `threshold` operations of it fell into the last `window` seconds.
Counting is exact and its memory bounded by the threshold, not by the flood.
"""

from __future__ import annotations

import enum
import logging
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from ..capability import Capability
from ..native.forked import call_in_child, renew
from ..records import Actor
from .event import DenialEvent
from .merge import disagree
from .metrics import LOST_STAGES
from .worker_threads import Calls

_log = logging.getLogger("pyisolate.telemetry")

#: Groups remembered per rule (one per capability, policy ...); the one quiet for longest is forgotten first.
GROUPS_LIMIT = 1000

_FIELDS = frozenset(DenialEvent.__struct_fields__) | {"disagree", "stage"}
_UNMATCHABLE = frozenset({"suggestion"})
_NOT_ITS_TEXT = frozenset({"disagree", "actor"})

Scalar = str | int | bool | None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One firing: the rule's name, the group it fired for, how many operations (at least) it saw, the last event."""

    alert: str
    group: dict[str, Scalar]
    count: int
    threshold: int
    window_s: float
    time: float
    event: DenialEvent | None = None


class AlertRule:
    """Fires when more than `threshold` operations that `match` fall into `window` seconds.

    `match`: event field -> value, or a set or list of them. Exact: `fs` matches nothing, for no capability is called
    so. Extra fields: `disagree` (the two layers contradict each other). With `signal="lost"` it counts lost events
    instead, matched by `stage`. `by` names fields whose distinct values are counted apart. `callback` runs on a thread
    of its own, at most once in `cooldown` seconds a group. Raises ValueError for unknown fields.
    """

    def __init__(
        self,
        name: str,
        match: Mapping[str, Any] | None = None,
        threshold: int = 0,
        window: float = 300.0,
        *,
        by: Iterable[str] = (),
        cooldown: float = 300.0,
        callback: Callable[[Alert], None] | None = None,
        signal: Literal["denial", "lost"] = "denial",
        description: str = "",
    ) -> None:
        self.name, self.threshold, self.window, self.cooldown = name, threshold, window, cooldown
        self.callback, self.signal, self.description = callback, signal, description
        self.by = tuple(by)
        if threshold < 0 or window <= 0 or cooldown < 0:
            raise ValueError(
                f"alert rule {name!r}: threshold and cooldown must not be negative, window must be positive"
            )
        if signal not in ("denial", "lost"):
            raise ValueError(f"alert rule {name!r}: signal {signal!r} is unknown. Hint: denial or lost")
        self.match = {field: _values(name, field, wanted) for field, wanted in (match or {}).items()}
        known = {"stage"} if signal == "lost" else _FIELDS - _UNMATCHABLE - {"stage"}
        unknown = sorted({*self.match, *self.by} - known)
        if unknown:
            raise ValueError(
                f"alert rule {name!r}, field {unknown[0]!r}: unknown. Hint: one of {', '.join(sorted(known))}"
            )

    def __repr__(self) -> str:
        return f"AlertRule({self.name!r}, threshold={self.threshold}, window={self.window})"


def default_rules() -> list[AlertRule]:
    """Return the rules that are shipped; `docs/monitoring/alerts.yml` states the same for Prometheus."""
    #: a look-up that found nothing explains "file not found", and is no attempt at anything
    attempts = [capability for capability in Capability if capability is not Capability.FS_LOOKUP]
    refused: dict[str, Any] = {"would_deny": False, "capability": attempts}
    return [
        AlertRule(
            "CapabilityDeniedOften",
            refused,
            threshold=10,
            window=24 * 3600,
            by=("capability",),
            cooldown=3600,
            description="one capability was refused more than 10 times in 24 h",
        ),
        AlertRule(
            "BrokerBypassed",
            {
                "broker_decision": "not_consulted",
                "kernel_decision": "deny",
                "reported_by": "kernel",
                "capability": attempts,
            },
            description="the kernel refused what no broker was asked about: native code went round the interpreter",
        ),
        AlertRule(
            "LayersDisagree",
            {"disagree": True, "kernel_evaluation": ["enforced", "probed"]},
            description="one layer allowed what the other refused: their tables have drifted apart",
        ),
        AlertRule(
            "DenialEventsLost",
            {"stage": [stage for stage in (*LOST_STAGES, "unattributed") if stage != "lookup"]},  # it is no attempt
            signal="lost",
            description="denial events were lost before they could be read",
        ),
    ]


class _Window:
    """Counts of one group. Holds the newest entries that reach past the threshold; older ones change nothing."""

    __slots__ = ("entries", "fired_at", "sum")

    def __init__(self) -> None:
        self.entries: deque[tuple[float, int]] = deque()
        self.sum = 0
        self.fired_at = float("-inf")

    def add(self, now: float, count: int, threshold: int) -> None:
        self.entries.append((now, count))
        self.sum += count
        while self.sum - self.entries[0][1] > threshold:
            self.sum -= self.entries.popleft()[1]

    def expire(self, oldest: float) -> None:
        while self.entries and self.entries[0][0] <= oldest:
            self.sum -= self.entries.popleft()[1]


_RuleState = tuple[AlertRule, "OrderedDict[tuple[Scalar, ...], _Window]"]


class AlertEngine:
    """Holds rules and their windows. Give it to a `Recorder`; `Metrics.add_alerts` shows it to Prometheus."""

    def __init__(
        self, rules: Iterable[AlertRule] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state: tuple[_RuleState, ...] = ()
        self.set_rules(default_rules() if rules is None else rules)
        self._calls = Calls("pyisolate-alerts")
        renew(self)

    @property
    def rules(self) -> tuple[AlertRule, ...]:
        """The rules in force."""
        return tuple(rule for rule, _ in self._state)

    def set_rules(self, rules: Iterable[AlertRule]) -> None:
        """Replace the rules; counting starts anew. Raises ValueError when two have the same name."""
        rules = tuple(rules)
        if wrong := [one for one in rules if not isinstance(one, AlertRule)]:
            raise TypeError(f"alert engine: rules: must be AlertRule, not {type(wrong[0]).__name__}")
        state: tuple[_RuleState, ...] = tuple((rule, OrderedDict()) for rule in rules)
        if len({rule.name for rule, _ in state}) != len(state):
            raise ValueError("alert engine: two rules have the same name")
        self._state = state

    def observe(self, event: DenialEvent) -> None:
        """Count an event against every rule that matches it."""
        for state in self._state:
            rule = state[0]
            if rule.signal == "denial" and _matches(rule, event):
                self._count(state, tuple(_field(event, name) for name in rule.by), event.count, event)

    def lost(self, stage: str, count: int) -> None:
        """Count lost events against the rules with `signal="lost"`."""
        for state in self._state:
            rule = state[0]
            if rule.signal == "lost" and stage in rule.match.get("stage", (stage,)):
                self._count(state, (stage,) if rule.by else (), count, None)

    def active(self) -> dict[str, bool]:
        """Return each rule's name and whether any of its groups is above the threshold now."""
        now = self._clock()
        with self._lock:
            return {
                rule.name: any(_above(window, rule, now) for window in windows.values())
                for rule, windows in self._state
            }

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the callbacks that are due have run."""
        return self._calls.flush(timeout)

    def _count(self, state: _RuleState, group: tuple[Scalar, ...], count: int, event: DenialEvent | None) -> None:
        (rule, windows), now = state, self._clock()
        with self._lock:
            window = windows.get(group)
            if window is None:
                window = windows[group] = _Window()
                if len(windows) > GROUPS_LIMIT:
                    windows.popitem(last=False)
            windows.move_to_end(group)
            window.expire(now - rule.window)
            before = window.sum
            window.add(now, count, rule.threshold)
            if before + count <= rule.threshold or now - window.fired_at < rule.cooldown:
                return
            window.fired_at = now
        alert = Alert(
            alert=rule.name,
            group=dict(zip(rule.by, group, strict=False)),
            count=before + count,
            threshold=rule.threshold,
            window_s=rule.window,
            time=time.time(),
            event=event,
        )
        _log.warning("alert %s: more than %d in %g s %s", rule.name, rule.threshold, rule.window, alert.group or "")
        if rule.callback is not None:
            self._calls.put(rule.callback, alert)

    def renew_after_fork(self) -> None:
        """Start with empty windows, and a thread of its own for callbacks."""
        self._lock = threading.Lock()
        self.set_rules(self.rules)
        self._calls = Calls("pyisolate-alerts")


_default: AlertEngine | None = None
_default_lock = threading.Lock()


def default_engine() -> AlertEngine:
    """Return the process's alert engine, used by every recorder without its own."""
    global _default
    with _default_lock:
        if _default is None:
            _default = AlertEngine()
        return _default


def _above(window: _Window, rule: AlertRule, now: float) -> bool:
    window.expire(now - rule.window)
    return window.sum > rule.threshold


def _matches(rule: AlertRule, event: DenialEvent) -> bool:
    for name, wanted in rule.match.items():
        # a member of a StrEnum is the text that `wanted` has
        value = _field(event, name) if name in _NOT_ITS_TEXT else getattr(event, name)
        if value not in wanted:
            return False
    return True


def _field(event: DenialEvent, name: str) -> Scalar:
    if name == "disagree":
        return disagree(event)
    value: Any = getattr(event, name)
    if isinstance(value, Actor):
        return f"{value.kind}:{value.id}"
    plain: Scalar = str(value) if isinstance(value, enum.Enum) else value
    return plain


def _values(rule: str, field: str, wanted: Any) -> frozenset[Scalar]:
    several = wanted if isinstance(wanted, set | frozenset | list | tuple) else (wanted,)
    values = frozenset(value.value if isinstance(value, enum.Enum) else value for value in several)
    enums = _ENUMS.get(field)
    strange = sorted(str(v) for v in values if enums is not None and v not in enums)
    if strange:
        raise ValueError(f"alert rule {rule!r}, {field} {strange[0]!r}: no such value, the rule would never fire")
    return values


def _enum_values() -> dict[str, frozenset[str]]:
    hints = {field.name: field.type for field in msgspec.structs.fields(DenialEvent)}
    return {
        name: frozenset(member.value for member in hint)
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, enum.Enum)
    }


_ENUMS = _enum_values()


@call_in_child
def _after_fork() -> None:
    global _default_lock
    _default_lock = threading.Lock()


def __getattr__(name: str) -> Any:
    """`set_alert_rules` by its first public path: the guarded function is `pyisolate.set_alert_rules`."""
    if name == "set_alert_rules":
        return sys.modules["pyisolate"].set_alert_rules  # the package that this module is in, loaded before it
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
