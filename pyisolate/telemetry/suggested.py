"""What an event, or a question to the host, suggests: what advice finds, as far as the policy in force can take it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from ..capability import FsRight
from ..decision import DenialCode
from ..records import (
    RefusedOperation,
    SandboxContext,
    Suggest,
    is_above_denial,
    is_above_grant,
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
        found = suggest(operation)
        return found if found is None or _fits(found, context, targets) else None
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
    return True


def _bits(rights: Iterable[str]) -> int:
    return sum(FsRight[one.upper()].value for one in rights)


def _places(found: dict[str, Any]) -> Iterator[str]:
    for rule in found.get("net", ()):
        yield from rule.values()


def _host_of(place: str) -> str:
    return place.rpartition(":")[0].lower().rstrip(".")
