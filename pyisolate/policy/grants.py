"""Operations that a policy refuses -> the policy that grants them with no rule too many.

A rule is added only where those before it do not reach: `import: {native: [pandas]}` already opens what pandas reads
and what it requires, `{exec: ...}` already implies `fork`, and a directory its files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ..capability import Capability
from ..decision import DenialCode
from ..errors import PolicySyntaxError
from . import resolver as resources
from .broker import Broker
from .compile import compile_policy
from .model import PolicyModel
from .rules import EXEC, FileRule, ImportRule, NetworkRule, ProcessRule
from .suggest import apply, exact

_P = TypeVar("_P", bound=PolicyModel)

Operation = tuple[Capability, str]
_Whole = NetworkRule | ProcessRule | ImportRule
#: kind of rule -> where a policy holds it
_FIELDS: dict[type, str] = {NetworkRule: "network", ProcessRule: "processes", ImportRule: "imports"}
#: Rights that bring another along (compile: `_NEEDED`) come before it.
_FIRST = (Capability.FS_EXEC, Capability.FS_WRITE)


class Grants(Generic[_P]):
    """A policy that grows. `options` are `compile_policy`'s; a host name is resolved once."""

    def __init__(self, policy: _P, **options: Any) -> None:
        self.policy = policy
        self._base = policy
        self._granted: set[Operation] = set()
        answers: dict[str, Sequence[str]] = {}
        resolve = options.pop("resolve", None) or resources.resolve_host

        def once(host: str) -> Sequence[str]:
            if host not in answers:
                answers[host] = resolve(host)
            return answers[host]

        self._options = {**options, "resolve": once}

    def refused(self, operations: Iterable[Operation], policy: PolicyModel | None = None) -> set[Operation]:
        """Return those of the operations that the policy, or another one, refuses."""
        broker = Broker(compile_policy(policy or self.policy, **self._options))
        return {one for one in operations if broker.decide(*one, **facts_of(one)).code is not None}

    def denied(self, operations: Iterable[Operation]) -> set[Operation]:
        """Return those of the operations that a rule of the policy denies in so many words."""
        broker = Broker(compile_policy(self.policy, **self._options))
        decided = ((one, broker.decide(*one, **facts_of(one)).code) for one in operations)
        return {one for one, code in decided if code is DenialCode.EXPLICIT_DENY}

    def add(self, operations: Iterable[Operation]) -> None:
        """Grant operations, as far as rules can."""
        wanted = set(operations)
        files = {one for one in wanted if one[0].startswith("fs.")}
        self._granted |= wanted - files
        listening = {one for one in wanted if one[0] is Capability.NET_LISTEN}
        self._apply(wanted - files - listening)
        self._apply(self.refused(listening))  # a port that the kernel picked is granted by `bind: "host:0"`
        self._drop_implied()
        for depth in sorted({_depth(one) for one in files}):
            self._apply(self.refused(one for one in files if _depth(one) == depth))

    def _apply(self, operations: Iterable[Operation]) -> None:
        for capability, target in sorted(operations):
            suggested = exact(capability, target)
            if suggested is None:
                continue
            try:
                self.policy = apply(self.policy, suggested)
            except PolicySyntaxError:
                continue

    def _drop_implied(self) -> None:
        """Drop added rules of modules and programs without which no more of the operations is refused."""
        self._drop(self._droppable(), self._granted)

    def shrink(self, operations: Iterable[Operation]) -> None:
        """Drop every added rule, and every added right of a file rule, that these operations do not need.

        The wider ones first: what a narrower rule brings along (reading, for who executes) needs no wider one.
        """
        wanted = set(operations)
        network = [rule for rule in self.policy.network if rule.allow and rule not in self._base.network]
        self._drop([*network, *self._droppable()], wanted)
        known = self.refused(wanted)
        for path, right in self._added_rights():
            files = [_without_right(one, right, self._base) if one.path == path else one for one in self.policy.files]
            less = msgspec.structs.replace(self.policy, files=tuple(one for one in files if one.allow or one.deny))
            if self.refused(wanted, less) <= known:
                self.policy = less

    def _drop(self, rules: Iterable[_Whole], operations: set[Operation]) -> None:
        known = self.refused(operations)
        for rule in rules:
            field = _FIELDS[type(rule)]
            before = tuple(one for one in getattr(self._base, field) if one.sort_key == rule.sort_key)
            rest = tuple(other for other in getattr(self.policy, field) if other != rule)
            less = msgspec.structs.replace(self.policy, **{field: rest + before})
            if self.refused(operations, less) <= known:
                self.policy = less

    def _droppable(self) -> list[_Whole]:
        """Return the added rules that another kind of rule may imply, the weaker ones first."""
        base = self._base
        imports = [rule for rule in self.policy.imports if rule.allow and rule not in base.imports]
        processes = [rule for rule in self.policy.processes if rule.allow and rule not in base.processes]
        imports.sort(key=lambda rule: (rule.kind == "native", rule.sort_key))
        processes.sort(key=lambda rule: rule.operation == EXEC)
        return [*imports, *processes]

    def _added_rights(self) -> list[tuple[str, str]]:
        """Return the (path, right) that the base does not allow, nearest to the root first."""
        given = {(rule.path, right) for rule in self._base.files for right in rule.allow}
        added = {(rule.path, right) for rule in self.policy.files for right in rule.allow} - given
        return sorted(added, key=lambda one: (one[0].rstrip("/").count("/"), one))


def _without_right(rule: FileRule, right: str, base: PolicyModel) -> FileRule:
    """Return the rule without an added right, and with what the base denied there instead."""
    denied = any(right in one.deny for one in base.files if one.path == rule.path)
    allow = tuple(one for one in rule.allow if one != right)
    return msgspec.structs.replace(rule, allow=allow, deny=(*rule.deny, right) if denied else rule.deny)


def facts_of(operation: Operation) -> dict[str, Any]:
    """Return what the hook knew besides: a directory is listed, which an import rule may grant alone."""
    capability, target = operation
    return {"listing": True} if capability is Capability.FS_READ and os.path.isdir(target) else {}


def _depth(operation: Operation) -> tuple[int, bool]:
    capability, path = operation
    return (path.count("/") if path != "/" else 0, capability not in _FIRST)
