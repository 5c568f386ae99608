"""What the arguments of `Supervisor` and `spawn` come to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .guarding import current_actor
from .policy import Policy
from .telemetry.alerts import AlertEngine, AlertRule
from .telemetry.audit import AuditLog
from .telemetry.event import Actor
from .telemetry.recorder import AlertObserver, Recorder
from .telemetry.sink import EventSink

#: What a guest's environment holds before `env=` is added. One thread for the numeric libraries: threads count as
#: processes against the limit.
GUEST_ENVIRONMENT = {
    "HOME": "/",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def zygote_environment() -> dict[str, str]:
    """Nothing of the host's environment reaches a cell, not even through /proc/self/environ."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def choose_policy(
    policy: Policy | str | None,
    limits: Mapping[str, Any] | None,
    mode: str | None,
    allowed_imports: list[str] | tuple[str, ...] | None,
) -> Policy:
    """Return the policy that `spawn`'s arguments come to. Raises PolicySyntaxError."""
    chosen = policy if isinstance(policy, Policy) else Policy.preset(policy or "compute")
    if limits:
        chosen = chosen.with_limits(**limits)
    if mode is not None:
        chosen = chosen.with_mode(mode)
    if allowed_imports:
        chosen = chosen.allow_import(*allowed_imports)
    return chosen


def choose_actor(actor: Mapping[str, str] | Actor | None) -> Actor | None:
    """Return on whose behalf a sandbox runs: as told, or that of `acting_as`."""
    if actor is None:
        return current_actor()
    if isinstance(actor, Actor):
        return actor
    try:
        return msgspec.convert(dict(actor), Actor, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"actor: {actor!r}: must be {{'kind': ..., 'id': ...}} ({error})") from None


def make_recorder(
    audit: str | os.PathLike[str] | EventSink | None,
    sinks: Sequence[EventSink] | None,
    alerts: Iterable[AlertRule] | AlertObserver | None,
) -> Recorder:
    """Return a recorder with the given audit log (or the path of one), sinks and alert rules."""
    log = AuditLog(audit) if isinstance(audit, str | os.PathLike) else audit
    if alerts is None:
        return Recorder(audit=log, sinks=sinks)
    engine = AlertEngine(alerts) if isinstance(alerts, Iterable) else alerts
    return Recorder(audit=log, sinks=sinks, alerts=engine)
