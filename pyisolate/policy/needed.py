"""Operations that a policy refuses -> the policy that grants them with no rule too many.

A rule is added only where those before it do not reach: `import: {native: [pandas]}` already opens what pandas reads
and what it requires, `{exec: ...}` already implies `fork`, and a directory its files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ..broker import Broker
from ..capability import Capability
from ..decision import DenialCode
from ..errors import PolicySyntaxError
from . import resources
from .compile import compile_policy
from .model import Policy
from .rules import EXEC, ImportRule, ProcessRule
from .suggest import apply, suggestion

Operation = tuple[Capability, str]
#: Rights that bring another along (compile: `_NEEDED`) come before it.
_FIRST = (Capability.FS_EXEC, Capability.FS_WRITE)


class Grants:
    """A policy that grows. `options` are `compile_policy`'s; a host name is resolved once."""

    def __init__(self, policy: Policy, **options: Any) -> None:
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

    def refused(self, operations: Iterable[Operation], policy: Policy | None = None) -> set[Operation]:
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
            suggested = suggestion(capability, target)
            if suggested is None:
                continue
            try:
                self.policy = apply(self.policy, suggested)
            except PolicySyntaxError:
                continue

    def _drop_implied(self) -> None:
        """Drop added rules without which no more of the operations is refused."""
        known = self.refused(self._granted)
        for rule in self._droppable():
            field = "imports" if isinstance(rule, ImportRule) else "processes"
            rest = tuple(other for other in getattr(self.policy, field) if other != rule)
            less = msgspec.structs.replace(self.policy, **{field: rest})
            if self.refused(self._granted, less) <= known:
                self.policy = less

    def _droppable(self) -> list[ImportRule | ProcessRule]:
        """Return the added rules that another kind of rule may imply, the weaker ones first."""
        base = self._base
        imports = [rule for rule in self.policy.imports if rule.allow and rule not in base.imports]
        processes = [rule for rule in self.policy.processes if rule.allow and rule not in base.processes]
        imports.sort(key=lambda rule: (rule.kind == "native", rule.sort_key))
        processes.sort(key=lambda rule: rule.operation == EXEC)
        return [*imports, *processes]


def facts_of(operation: Operation) -> dict[str, Any]:
    """Return what the hook knew besides: a directory is listed, which an import rule may grant alone."""
    capability, target = operation
    return {"listing": True} if capability is Capability.FS_READ and os.path.isdir(target) else {}


def _depth(operation: Operation) -> tuple[int, bool]:
    capability, path = operation
    return (path.count("/") if path != "/" else 0, capability not in _FIRST)
