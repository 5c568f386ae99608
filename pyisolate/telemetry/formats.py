"""The same event in the vocabularies of others: OCSF (`ocsf`) and ECS (Elastic Common Schema 8).

One mapping, documented field by field in `docs/protocol.md`. Our own fields travel along under `unmapped` (OCSF) and
`pyisolate` (ECS), so that nothing is lost in translation.
"""

from __future__ import annotations

import datetime
from typing import Any

from .event import DenialEvent
from .ocsf import endpoint_of, is_ip
from .ocsf import to_ocsf as to_ocsf

#: the product, and the name of its own fields
_PRODUCT = __name__.partition(".")[0]
_ECS_CATEGORIES = {"fs": "file", "net": "network", "process": "process", "import": "library", "control": "iam"}
_ECS_TYPES = {"fs.read": "access", "fs.write": "change", "fs.create": "creation", "fs.delete": "deletion"}


def to_ecs(event: DenialEvent) -> dict[str, Any]:
    """Return the event in ECS 8: `event.outcome` failure (success in monitor mode), `event.action` the capability."""
    moment = datetime.datetime.fromtimestamp(event.time, datetime.UTC)
    mapped: dict[str, Any] = {
        "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "ecs": {"version": "8.11.0"},
        "message": str(event),
        "event": {
            "id": event.event_id,
            "kind": "event",
            "module": _PRODUCT,
            "dataset": f"{_PRODUCT}.denial",
            "action": event.capability.value,
            "category": [_ECS_CATEGORIES.get(_group(event), "intrusion_detection")],
            "type": [_ECS_TYPES.get(event.capability.value, "access" if event.would_deny else "denied")],
            "outcome": "success" if event.would_deny else "failure",
            "reason": event.broker_reason or event.kernel_reason,
            "code": event.code.value,
        },
        "rule": {
            "name": event.policy_rule,
            "ruleset": event.policy,
            "version": event.policy_version,
            **({"description": event.rule_reason} if event.rule_reason else {}),
        },
        "process": {"pid": event.pid, "thread": {"id": event.tid}},
        _PRODUCT: event.to_dict(),
    }
    if event.actor is not None:
        mapped["user"] = {"id": event.actor.id, "roles": [event.actor.kind]}
    if event.traceparent is not None:
        _, trace, span, _ = event.traceparent.split("-")
        mapped |= {"trace": {"id": trace}, "span": {"id": span}}
    return mapped | _ecs_target(event)


def _group(event: DenialEvent) -> str:
    return event.capability.value.partition(".")[0]


def _ecs_target(event: DenialEvent) -> dict[str, Any]:
    group = _group(event)
    if group == "fs":
        return {"file": {"path": event.target, "name": event.target.rpartition("/")[2] or event.target}}
    if group == "net" and (endpoint := endpoint_of(event.target)):
        host, port = endpoint
        return {"destination": {"address": host, "port": port} | ({"ip": host} if is_ip(host) else {})}
    if group == "process":
        return {"process": {"pid": event.pid, "thread": {"id": event.tid}, "executable": event.target}}
    return {}
