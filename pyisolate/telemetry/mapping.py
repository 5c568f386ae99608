"""The same event in the vocabularies of others: OCSF (https://schema.ocsf.io, 1.1) and ECS (Elastic Common Schema 8).

One mapping, documented field by field in `docs/protocol.md`. Our own fields travel along under `unmapped` (OCSF) and
`pyisolate` (ECS), so that nothing is lost in translation.
"""

from __future__ import annotations

import datetime
from typing import Any

from .. import __name__ as _product
from .event import DenialEvent

#: OCSF classes by the part of the capability before the dot; the rest is Application Activity: API Activity.
_OCSF_CLASSES = {
    "fs": (1001, "File System Activity", 1, "System Activity"),
    "process": (1007, "Process Activity", 1, "System Activity"),
    "memory": (1004, "Memory Activity", 1, "System Activity"),
    "import": (1005, "Module Activity", 1, "System Activity"),
    "kernel": (1003, "Kernel Activity", 1, "System Activity"),
    "net": (4001, "Network Activity", 4, "Network Activity"),
}
_OCSF_OTHER = (6003, "API Activity", 6, "Application Activity")
#: OCSF activity_id by capability, within its class; 99 is "Other".
_OCSF_ACTIVITIES = {
    "fs.read": 2,
    "fs.write": 3,
    "fs.create": 1,
    "fs.delete": 4,
    "fs.metadata": 6,
    "process.exec": 1,
    "process.signal": 3,
    "import.module": 1,
    "import.native": 1,
    "net.connect": 1,
    "net.listen": 7,
}
_ECS_CATEGORIES = {"fs": "file", "net": "network", "process": "process", "import": "library", "control": "iam"}
_ECS_TYPES = {"fs.read": "access", "fs.write": "change", "fs.create": "creation", "fs.delete": "deletion"}


def to_ocsf(event: DenialEvent) -> dict[str, Any]:
    """Return the event as an OCSF 1.1 activity; `action_id`/`disposition_id` 2/2 (blocked) or 1/17 (logged)."""
    class_uid, class_name, category_uid, category_name = _OCSF_CLASSES.get(_group(event), _OCSF_OTHER)
    activity = _OCSF_ACTIVITIES.get(event.capability.value, 99)
    severity = 2 if event.would_deny else 3
    mapped: dict[str, Any] = {
        "class_uid": class_uid,
        "class_name": class_name,
        "category_uid": category_uid,
        "category_name": category_name,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "time": int(event.time * 1000),
        "severity_id": severity,
        "severity": "Low" if severity == 2 else "Medium",
        "action_id": 1 if event.would_deny else 2,
        "action": "Allowed" if event.would_deny else "Denied",
        "disposition_id": 17 if event.would_deny else 2,
        "disposition": "Logged" if event.would_deny else "Blocked",
        "status_id": 1 if event.would_deny else 2,
        "status": "Success" if event.would_deny else "Failure",
        "status_code": event.code.value,
        "status_detail": event.broker_reason or event.kernel_reason,
        "message": str(event),
        "count": event.count,
        "metadata": {
            "version": "1.1.0",
            "uid": event.event_id,
            "product": {"name": _product, "vendor_name": _product},
            "profiles": ["security_control"],
        },
        "policy": {"name": event.policy, "uid": event.policy_version, "version": str(event.policy_generation)},
        "actor": {"process": {"pid": event.pid, "tid": event.tid}, **_ocsf_actor(event)},
        "unmapped": event.to_dict(),
    }
    return mapped | _ocsf_target(event)


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
            "module": _product,
            "dataset": f"{_product}.denial",
            "action": event.capability.value,
            "category": [_ECS_CATEGORIES.get(_group(event), "intrusion_detection")],
            "type": [_ECS_TYPES.get(event.capability.value, "access" if event.would_deny else "denied")],
            "outcome": "success" if event.would_deny else "failure",
            "reason": event.broker_reason or event.kernel_reason,
            "code": event.code.value,
        },
        "rule": {"name": event.policy_rule, "ruleset": event.policy, "version": event.policy_version},
        "process": {"pid": event.pid, "thread": {"id": event.tid}},
        _product: event.to_dict(),
    }
    if event.actor is not None:
        mapped["user"] = {"id": event.actor.id, "roles": [event.actor.kind]}
    return mapped | _ecs_target(event)


def _group(event: DenialEvent) -> str:
    return event.capability.value.partition(".")[0]


def _ocsf_actor(event: DenialEvent) -> dict[str, Any]:
    return {} if event.actor is None else {"user": {"uid": event.actor.id, "type": event.actor.kind}}


def _ocsf_target(event: DenialEvent) -> dict[str, Any]:
    group = _group(event)
    name = event.target.rpartition("/")[2] or event.target
    if group == "fs":
        return {"file": {"path": event.target, "name": name, "type_id": 0}}
    if group == "net" and (endpoint := _endpoint(event.target)):
        return {"dst_endpoint": {"ip" if _is_ip(endpoint[0]) else "hostname": endpoint[0], "port": endpoint[1]}}
    if group == "process":
        return {"process": {"file": {"path": event.target, "name": name, "type_id": 1}}}
    if group == "import":
        return {"module": {"type": "library", "file": {"path": event.target, "name": name, "type_id": 1}}}
    if group in ("control", "limit", "random", "ipc"):
        return {"api": {"operation": event.requested_capability}}
    return {}


def _ecs_target(event: DenialEvent) -> dict[str, Any]:
    group = _group(event)
    if group == "fs":
        return {"file": {"path": event.target, "name": event.target.rpartition("/")[2] or event.target}}
    if group == "net" and (endpoint := _endpoint(event.target)):
        host, port = endpoint
        return {"destination": {"address": host, "port": port} | ({"ip": host} if _is_ip(host) else {})}
    if group == "process":
        return {"process": {"pid": event.pid, "thread": {"id": event.tid}, "executable": event.target}}
    return {}


def _endpoint(target: str) -> tuple[str, int] | None:
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        return None
    return host.strip("[]"), int(port)


def _is_ip(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
