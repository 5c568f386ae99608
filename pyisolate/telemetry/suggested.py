"""What an event, or a question to the host, suggests: what advice finds, as far as the policy in force can take it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ..capability import Capability, FsRight
from ..decision import DenialCode
from ..records import (
    RefusedOperation,
    SandboxContext,
    Suggest,
    is_above_denial,
    is_above_grant,
    is_denied_by_import,
    is_denied_in_part,
)
from .sanitize import hide_user_information, is_plain

_log = logging.getLogger("pyisolate.telemetry")
#: No rule is what was missing.
_NO_RULE = (DenialCode.ALWAYS_DENIED, DenialCode.TOKEN_INVALID, DenialCode.ACTOR_REQUIRED)
#: Rights under which a mount is writable.
_CHANGES = frozenset({"write", "create", "delete", "metadata"})


def suggested(
    context: SandboxContext, suggest: Suggest | None, operation: RefusedOperation, code: DenialCode
) -> dict[str, Any] | None:
    """Return the smallest rules that would allow a refused operation; None where none can be advised."""
    if suggest is None or code in _NO_RULE:
        return None
    if context.unresolved and _host_of(operation.target) in context.unresolved:
        return None  # its name is granted, and stands for no address
    targets = (operation.target, *[target for _, target in operation.also])
    for target in targets:
        if not is_plain(target) or hide_user_information(target) != target:
            return None  # a rule cannot carry it as text, and an event must be safe to print and hold no password
    try:
        spoken, below = _below_denied(operation, context)
        found = suggest(spoken)
        if found is not None and below:
            kinds = found["import"]
            found = {"import": {**kinds, "allow": sorted([*kinds.get("allow", ()), *below])}}
        return _missing(found, context) if found is not None and _fits(found, context, targets) else None
    except Exception:
        _log.debug("suggestion failed", exc_info=True)  # a denial is recorded whether or not advice can be given
        return None


def _fits(found: dict[str, Any], context: SandboxContext, targets: tuple[str, ...]) -> bool:
    """Tell whether a policy can take rules: it could be enforced with them, and they open nothing else."""
    if context.unresolved and any(_host_of(place) in context.unresolved for place in _places(found)):
        return False  # asked for by another capability: of the proxy
    granted = {rule.path: rule.allow & ~rule.deny for rule in context.files}
    stated = [(rule["path"], _bits(rule["allow"])) for rule in found.get("fs", ())]
    stated += [(rule["exec"], FsRight.EXEC.value) for rule in found.get("process", ()) if "exec" in rule]
    if stated and all(granted.get(path, 0) & bits == bits for path, bits in stated):
        return False  # it has them: something else refuses
    for rule in found.get("fs", ()):
        if is_above_grant(rule["path"], context.files, targets):
            return False  # what else is granted below would be granted more
        if not _CHANGES.isdisjoint(rule["allow"]) and is_above_denial(rule["path"], context.files):
            return False  # the policy could not be enforced
        if is_denied_in_part(rule["path"], _bits(rule["allow"]), context.files):
            return False  # the same
        if is_denied_by_import(rule["path"], _bits(rule["allow"]), context.files):
            return False
    return True


def _missing(found: dict[str, Any], context: SandboxContext) -> dict[str, Any]:
    """Return the rules about files without the rights that the policy grants at that very path."""
    if "fs" not in found:
        return found
    granted = {rule.path: rule.allow & ~rule.deny for rule in context.files}
    rules = [
        rule | {"allow": [one for one in rule["allow"] if not _bits([one]) & granted.get(rule["path"], 0)]}
        for rule in found["fs"]
    ]
    return found | {"fs": [rule for rule in rules if rule["allow"]]}


def _below_denied(operation: RefusedOperation, context: SandboxContext) -> tuple[RefusedOperation, list[str]]:
    """Return the operation of which rules are to speak, and the modules that have to be granted besides.

    A module below denied ones is imported with all of them, whatever a rule of its own grants.
    """
    if operation.capability is not Capability.IMPORT_MODULE or not operation.denied:
        return operation, []
    name, above = operation.target, []
    while name:
        if name in context.denied_modules:
            above.append(name)
        name = name.rpartition(".")[0]
    if not above:
        return operation, []
    *below, outermost = above
    return msgspec.structs.replace(operation, target=outermost), below


def _bits(rights: Iterable[str]) -> int:
    return sum(FsRight[one.upper()].value for one in rights)


def _places(found: dict[str, Any]) -> Iterator[str]:
    for rule in found.get("net", ()):
        yield from rule.values()


def _host_of(place: str) -> str:
    return place.rpartition(":")[0].lower().rstrip(".")
