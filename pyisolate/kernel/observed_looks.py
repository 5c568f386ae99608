"""What a look-up that finds nothing says of a policy, where the root view hides what is there; see `observed_files`."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

import msgspec

from ..capability import Capability
from ..decision import Decision, DenialCode, Mode, Verdict
from ..policy.broker import Broker
from ..policy.searched import Searched
from ..policy.suggest import is_task
from ..records import Evaluation, KernelRecord
from .expected_files import is_beside, is_described_terminal
from .seen_names import SeenNames


def not_found(
    record: KernelRecord,
    path: str,
    broker: Broker,
    names: SeenNames,
    searched: Searched,
) -> KernelRecord:
    """Return a look-up that found nothing, as a refusal where something is there and only not granted.

    Not where this process cannot know; not of what the C library looks at for the name of a user or a host, imports
    search or the standard library does without; not of a task in /proc, which is another's here. Where files are
    monitored, the guest found it.
    """
    leads_to = names.leads_to(path)
    if record.resolves or is_task(leads_to) or not names.is_seen(leads_to):
        return record
    if is_beside(path, record.target, searched) or is_beside(leads_to, record.target, searched):
        return record
    passed = broker.policy.mode_of("fs") is Mode.MONITOR
    if passed and is_described_terminal(record, path):
        return record  # enforcing hides its directory, and nothing asks about it then
    decision = broker.decide(Capability.FS_LOOKUP, path)
    leads = names.followed(path)  # the root view has the links that lead to what is granted
    covered = decision.code is DenialCode.EXPLICIT_DENY and _covered(path, broker)
    if covered and not record.uses:
        return record
    if decision.code is None or (leads != path and broker.decide(Capability.FS_LOOKUP, leads).code is None):
        return record
    reason = f"{decision.reason}: the root view shows only what is granted"
    found = refused(record, msgspec.structs.replace(decision, reason=reason), path)
    number = errno.EACCES if covered or _below_cover(path, broker) else errno.ENOENT
    return msgspec.structs.replace(found, enforcer="root view", errno=0 if passed else number)


def barred(record: KernelRecord, names: SeenNames, broker: Broker, searched: Searched) -> KernelRecord | None:
    """Return the denial of a call whose name goes through a directory that the root view does not have; else None.

    The kernel looks for each part of a name, also where ".." leaves it again. Not of what imports search.
    """
    for name in (record.target, record.other):
        if "/../" in name or name.endswith("/.."):
            names.followed(name)
    if names.barred is None or is_beside(names.barred, names.barred, searched):
        return None
    asked_for = names.followed(record.target)
    if names.is_seen(asked_for) and broker.decide(record.capability, asked_for).code is not None:
        return None  # what was asked for is refused as well, and an event is about that
    decision = broker.decide(Capability.FS_LOOKUP, names.barred)
    why = "the name goes through it, and the root view shows only what is granted"
    found = refused(record, decision, names.barred)
    return _out_of_view(found, why, passed=broker.policy.mode_of("fs") is Mode.MONITOR)


def by_unseen_link(record: KernelRecord, names: SeenNames, *, passed: bool) -> KernelRecord:
    """Return a denial as it is where a link that the root view lacks leads to what is granted; else as it came.

    `passed`: monitor mode, in which hooks saw where the link leads.
    """
    if not names.is_by_unseen_link(record.target):
        return record
    why = "a link leads from it to what is granted, and the root view shows no link that is not"
    return _out_of_view(record, why, passed=passed)


def too_late(record: KernelRecord, broker: Broker, left_out: Collection[str]) -> KernelRecord:
    """Return a denial of what a rule grants as it is: the granted path was made after its sandbox started.

    `left_out`: such paths. Other records are returned as they came.
    """
    if record.verdict is not Verdict.DENY:
        return record
    decision = broker.decide(record.capability, record.target)
    place = next((one for one in left_out if f"{record.target}/".startswith(f"{one.rstrip('/')}/")), None)
    if decision.code is not None or place is None:
        return record
    return msgspec.structs.replace(
        record,
        code=DenialCode.SCOPE_INSUFFICIENT,
        reason=f"it is granted, and {place} was not there when the sandbox started, so its tables lack it",
        rule=None,
        presented=f"{record.capability} {place}",
    )


def _out_of_view(record: KernelRecord, why: str, *, passed: bool) -> KernelRecord:
    """Return a denial as the root view's, which does not show what was looked for. `passed`: monitor mode shows it."""
    number = 0 if passed else errno.EACCES if record.code is DenialCode.EXPLICIT_DENY else errno.ENOENT
    reason = f"{record.reason}: {why}"
    return msgspec.structs.replace(record, enforcer="root view", reason=reason, errno=number, beyond_name=passed)


def _covered(path: str, broker: Broker) -> bool:
    """Tell whether the root view shows a denied name, by an empty cover: in what is granted around it."""
    return broker.decide(Capability.FS_LOOKUP, os.path.dirname(path)).code is None


def _below_cover(path: str, broker: Broker) -> bool:
    """Tell whether a name lies below an empty cover, which no guest may search."""
    while (path := os.path.dirname(path)) != "/":
        code = broker.decide(Capability.FS_LOOKUP, path).code
        if code is not DenialCode.EXPLICIT_DENY:
            return False
        if _covered(path, broker):
            return True
    return False


def refused(record: KernelRecord, decision: Decision, path: str, *, beyond_name: bool = False) -> KernelRecord:
    """Return the record as the denial of a decision that Landlock or the root view made."""
    return msgspec.structs.replace(
        record,
        enforcer="landlock",
        capability=decision.capability,
        target=path,  # as rules and hooks name it, so that both records of one operation become one event
        verdict=decision.verdict,
        evaluation=Evaluation.PROBED,
        code=decision.code,
        reason=decision.reason,
        rule=decision.rule,
        presented=decision.presented,
        beyond_name=beyond_name,
    )
