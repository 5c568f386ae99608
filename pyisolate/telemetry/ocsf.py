"""The same event in OCSF 1.8 (https://schema.ocsf.io/1.8.0), profiles `security_control` and `host`.

What OCSF has no attribute for travels under `unmapped`. `docs/protocol.md` has the mapping, and a test validates events
of each capability against the published schema.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, NamedTuple

from ..distribution import VERSION as _VERSION
from .event import DenialEvent

OCSF_VERSION = "1.8.0"
_product = __name__.partition(".")[0]


class _Class(NamedTuple):
    uid: int
    name: str
    category_uid: int
    category: str


#: By the part of the capability before the dot; the rest is API Activity.
_CLASSES = {
    "fs": _Class(1001, "File System Activity", 1, "System Activity"),
    "kernel": _Class(1003, "Kernel Activity", 1, "System Activity"),
    "memory": _Class(1004, "Memory Activity", 1, "System Activity"),
    "import": _Class(1005, "Module Activity", 1, "System Activity"),
    "process": _Class(1007, "Process Activity", 1, "System Activity"),
    "net": _Class(4001, "Network Activity", 4, "Network Activity"),
}
_OTHER = _Class(6003, "API Activity", 6, "Application Activity")
#: By capability, within its class: number and name of what was tried.
_ACTIVITIES = {
    "fs.read": (2, "Read"),
    "fs.write": (3, "Update"),
    "fs.create": (1, "Create"),
    "fs.delete": (4, "Delete"),
    "fs.metadata": (6, "Set Attributes"),
    "process.exec": (1, "Launch"),
    "process.fork": (1, "Launch"),
    "process.trace": (3, "Open"),
    "import.module": (1, "Load"),
    "import.native": (1, "Load"),
    "net.connect": (1, "Open"),
    "net.listen": (7, "Listen"),
    "net.http": (1, "Open"),
}
#: file.type_id, device.type_id, module.load_type_id: Unknown
_UNKNOWN = 0
_EXECUTABLE, _SYSTEM_CALL = 8, 2


def to_ocsf(event: DenialEvent) -> dict[str, Any]:
    """Return the event as an OCSF activity; `action_id`/`disposition_id` 2/2 (blocked) or 1/17 (logged)."""
    group = event.capability.value.partition(".")[0]
    kind = _CLASSES.get(group, _OTHER)
    activity, activity_name = _ACTIVITIES.get(
        event.capability.value, (4, "Invoke") if group == "kernel" else (99, "Other")
    )
    host = socket.gethostname()
    mapped: dict[str, Any] = {
        "class_uid": kind.uid,
        "class_name": kind.name,
        "category_uid": kind.category_uid,
        "category_name": kind.category,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": kind.uid * 100 + activity,
        "type_name": f"{kind.name}: {activity_name}",
        "time": int(event.time * 1000),
        "severity_id": 2 if event.would_deny else 3,
        "severity": "Low" if event.would_deny else "Medium",
        "status_code": event.code.value,
        "status_detail": event.broker_reason or event.kernel_reason,
        "message": str(event),
        "count": event.count,
        "metadata": {
            "version": OCSF_VERSION,
            "uid": event.event_id,
            "product": {"name": _product, "vendor_name": _product, "version": _VERSION},
            "profiles": ["security_control", "host"],
            **({"correlation_uid": event.traceparent.split("-")[1]} if event.traceparent else {}),
        },
        "device": {"hostname": host, "type_id": _UNKNOWN, "type": "Unknown"},
        "policy": {
            "name": event.policy,
            "uid": event.policy_version,
            "version": str(event.policy_generation),
            **({"desc": event.rule_reason} if event.rule_reason else {}),
        },
        "actor": {"process": _process(event), **_user(event)},
        "unmapped": event.to_dict(),
    }
    return mapped | _verdict(event) | _target(event, group, host)


def _verdict(event: DenialEvent) -> dict[str, Any]:
    if event.would_deny:
        words = (1, "Allowed", 17, "Logged", 1, "Success")
    else:
        words = (2, "Denied", 2, "Blocked", 2, "Failure")
    names = ("action_id", "action", "disposition_id", "disposition", "status_id", "status")
    return dict(zip(names, words, strict=True))


def _process(event: DenialEvent) -> dict[str, Any]:
    """The guest: its name is the sandbox's."""
    return {"pid": event.pid, "tid": event.tid, "name": event.sandbox, "uid": event.sandbox_id}


def _user(event: DenialEvent) -> dict[str, Any]:
    if event.actor is None:
        return {}
    return {"user": {"uid": event.actor.id, "type": event.actor.kind, "type_id": 99}}


def _target(event: DenialEvent, group: str, host: str) -> dict[str, Any]:
    """Return what was to be acted on, in the attribute that the class has for it."""
    target = event.target
    if group == "fs":
        return {"file": _file(target, _UNKNOWN)}
    if group == "net":
        if event.capability.value == "net.http":  # "GET host/path", "CONNECT host:443"
            target = target.partition(" ")[2].partition("/")[0] or target
        return {_end(event): _endpoint(target)}
    if group == "process":
        file = {"file": _file(target, _EXECUTABLE)} if event.capability.value == "process.exec" else {}
        return {"process": {**_process(event), **file}}
    if group == "memory":
        return {"process": _process(event)}
    if group == "import":
        return {"module": {"load_type_id": _UNKNOWN, "type": "library", "file": _file(target, _UNKNOWN)}}
    if group == "kernel":
        return {"kernel": {"name": event.syscall or event.capability.value, "type_id": _SYSTEM_CALL}}
    return {"api": {"operation": event.requested_capability}, "src_endpoint": {"hostname": host, "name": event.sandbox}}


def _file(path: str, type_id: int) -> dict[str, Any]:
    name = path.rpartition("/")[2] or path
    return {"name": name or "unknown", "type_id": type_id} | ({"path": path} if path.startswith("/") else {})


def _end(event: DenialEvent) -> str:
    return "src_endpoint" if event.capability.value in ("net.bind", "net.listen") else "dst_endpoint"


def _endpoint(target: str) -> dict[str, Any]:
    """An address and port, or the name of what is neither (a unix socket, a kind of socket)."""
    split = endpoint_of(target)
    if split is None:
        return {"name": target or "unknown"}
    host, port = split
    return {"ip" if is_ip(host) else "hostname": host, "port": port}


def endpoint_of(target: str) -> tuple[str, int] | None:
    """Return host and port of "host:port" or "[v6]:port"; None for anything else."""
    host, colon, port = target.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        return None
    return host.strip("[]"), int(port)


def is_ip(host: str) -> bool:
    """Say whether it is an address, of either version."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
