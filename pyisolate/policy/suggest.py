"""A refused operation -> the smallest rule that would allow it, as a piece of a policy file."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, TypeVar

import msgspec

from ..capability import FLOOR, Capability
from ..errors import PolicySyntaxError
from . import units
from .compiled import Limits
from .model import LIMIT_KEYS, Policy
from .rules import EXEC, FORK, FileRule, ImportRule, NetworkRule, ProcessRule
from .schema import read_policy

_FILE_RIGHTS = {
    Capability.FS_READ: "read",
    Capability.FS_WRITE: "write",
    Capability.FS_CREATE: "create",
    Capability.FS_DELETE: "delete",
    Capability.FS_METADATA: "metadata",
    Capability.FS_EXEC: "exec",
}
_NET_ACTIONS = {
    Capability.NET_CONNECT: "connect",
    Capability.NET_SEND: "connect",
    Capability.NET_BIND: "bind",
    Capability.NET_LISTEN: "bind",
    Capability.IPC_UNIX: "connect",
}


_R = TypeVar("_R", NetworkRule, ProcessRule, ImportRule)


def suggestion(capability: Capability, target: str) -> dict[str, Any] | None:
    """Return the smallest rule that allows the operation, or None where no rule can.

    No rule can for the floor, for limits and control, and for targets that a policy text cannot name.
    """
    try:
        return _suggest(Capability(capability), target)
    except (PolicySyntaxError, ValueError):
        return None  # what cannot be written in a policy file cannot be suggested either


def _suggest(capability: Capability, target: str) -> dict[str, Any] | None:
    if capability in FLOOR:
        return None
    if capability in _FILE_RIGHTS:
        right = _FILE_RIGHTS[capability]
        rule = FileRule(path=units.path(target, variables=False, literal=True), allow=(right,))
        return {"fs": [rule.fragment()]}
    if capability in _NET_ACTIONS:
        action = _NET_ACTIONS[capability]
        if capability is Capability.IPC_UNIX and not target.startswith("unix:"):
            target = f"unix:{target}"
        return {"net": [{action: str(units.net_target(_without_zone(target), action=action))}]}
    if capability is Capability.PROCESS_EXEC:
        program = ProcessRule(operation=EXEC, path=units.path(target, variables=False, literal=True))
        return {"process": [program.fragment()]}
    if capability is Capability.PROCESS_FORK:
        return {"process": [{FORK: True}]}
    if capability is Capability.IMPORT_MODULE:
        return {"import": {"allow": [units.module_name(target)]}}
    if capability is Capability.IMPORT_NATIVE:
        if target.endswith(".so") and not target.startswith("/"):
            return None  # which file the loader would find for a bare library name is not known here
        return {"import": {"native": [units.module_name(target, native=True)]}}
    if capability is Capability.MEMORY_EXEC:
        return {"import": {"native": ["*"]}}
    if capability is Capability.RANDOM_READ:
        return {"random": {"allow": True}}
    return None


def _without_zone(target: str) -> str:
    """Drop the zone of a link-local address and the IPv6 clothes of an IPv4 one: rules know neither."""
    host, colon, port = target.rpartition(":")
    if "%" in host:
        host = host.partition("%")[0] + "]"
    if host.lower().startswith("[::ffff:") and "." in host:
        host = host[8:-1]
    return f"{host}{colon}{port}"


def apply(policy: Policy, suggested: dict[str, Any]) -> Policy:
    """Return `policy` with the suggested rules added; a deny of exactly the same thing gives way.

    Where the policy denies a whole directory or range, the suggestion is the more specific rule, and wins as such.
    """
    added = read_policy(suggested)
    changed = msgspec.structs.replace(
        policy,
        files=_files(policy.files, added.files, _programs(added)),
        network=_others(policy.network, added.network),
        processes=_others(policy.processes, added.processes, {(False, path) for path in _programs(added)}),
        imports=_others(policy.imports, added.imports),
    )
    if "random" in suggested:
        changed = msgspec.structs.replace(changed, random=added.random, random_seed=added.random_seed)
    if "limits" in suggested:
        changed = msgspec.structs.replace(changed, limits=_limits(policy.limits, added.limits, suggested["limits"]))
    return changed


def _limits(old: Limits, new: Limits, keys: dict[str, Any]) -> Limits:
    fields = [LIMIT_KEYS[key][0] for key in keys]
    return msgspec.structs.replace(old, **{field: getattr(new, field) for field in fields})


def _programs(added: Policy) -> set[str]:
    """Return the programs that are to run: `fs` and `process` both speak of them."""
    named = {rule.path for rule in added.processes if rule.operation == EXEC and rule.allow}
    return named | {rule.path for rule in added.files if "exec" in rule.allow}


def _files(old: tuple[FileRule, ...], new: tuple[FileRule, ...], programs: set[str]) -> tuple[FileRule, ...]:
    granted: dict[str, tuple[str, ...]] = {rule.path: rule.allow for rule in new}
    for path in programs:
        granted[path] = (*granted.get(path, ()), "exec")
    kept = [
        msgspec.structs.replace(rule, deny=tuple(r for r in rule.deny if r not in granted.get(rule.path, ())))
        for rule in old
    ]
    return (*kept, *new)


def _others(old: tuple[_R, ...], new: tuple[_R, ...], more: Set[tuple[Any, ...]] = frozenset()) -> tuple[_R, ...]:
    granted = {rule.sort_key for rule in new if rule.allow} | more
    return tuple([rule for rule in old if rule.allow or rule.sort_key not in granted]) + new
