"""The rules that a policy holds, one type per policy key, and their canonical order.

Rules hold canonical text only (see `units`); what they mean on this machine is `compile`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from ..capability import CATALOGUE, Capability
from ..capability import MODE_GROUPS as MODE_GROUPS
from ..decision import Mode
from .compiled import EgressLimits, Limits

#: Rights of a file rule, as policy files name them.
FILE_RIGHTS = tuple(
    (entry.right.name or "").lower() for c, entry in CATALOGUE.items() if c.family == "fs" and entry.right is not None
)
EXEC, FORK = "exec", "fork"
#: What a network rule can speak of, in the order of policy files.
NET_ACTIONS = ("connect", "bind", "http")
#: policy key under `import` -> (kind, allow)
IMPORT_KEYS = {
    "allow": ("module", True),
    "native": ("native", True),
    "deny": ("module", False),
    "deny_native": ("native", False),
}
_IMPORT_KEY_OF = {value: key for key, value in IMPORT_KEYS.items()}


def _flow(value: Any) -> str:
    """Return plain data as one line of YAML, for messages (not meant to be read back)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) and (":" in value or value.startswith("@")) else str(value)


def _literal(path: str) -> dict[str, Any]:
    """Return the key that says that `*` and `?` in a path mean themselves, where they occur."""
    return {"literal": True} if "*" in path or "?" in path else {}


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a policy. `reason` is what its author says of it; it decides nothing."""

    reason: str | None = None

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Where the rule stands in the canonical order; rules that speak of the same thing share it."""
        raise NotImplementedError

    def stated(self) -> dict[str, Any]:
        """Return the rule without its reason, as the item that a policy file would hold."""
        raise NotImplementedError

    def fragment(self) -> dict[str, Any]:
        """Return the rule as the item that a policy file would hold."""
        return self.stated() | ({} if self.reason is None else {"reason": self.reason})

    @property
    def text(self) -> str:
        """The rule as a policy file would state it, on one line, without its reason."""
        raise NotImplementedError


class FileRule(Rule, frozen=True, kw_only=True):
    """Rights at a path and all below it. A right is named in `allow` or `deny`, never in both."""

    path: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @property
    def sort_key(self) -> tuple[Any, ...]:  # noqa: D102
        return (self.path,)

    def stated(self) -> dict[str, Any]:  # noqa: D102
        item: dict[str, Any] = {"path": self.path}
        item |= _literal(self.path)
        if self.allow:
            item["allow"] = list(self.allow)
        if self.deny:
            item["deny"] = list(self.deny)
        return item

    @property
    def text(self) -> str:  # noqa: D102
        return f"fs: {_flow(self.stated())}"


class NetworkRule(Rule, frozen=True, kw_only=True):
    """`action` is connect (and send), bind (and listen) or http; `target` as `units` prints it."""

    action: str
    target: str
    allow: bool = True

    @property
    def tls(self) -> bool:
        """True where it speaks of requests inside of TLS."""
        return self.action == "http" and " https://" in self.target

    @property
    def sort_key(self) -> tuple[Any, ...]:  # noqa: D102
        return (NET_ACTIONS.index(self.action), self.target)

    def stated(self) -> dict[str, Any]:  # noqa: D102
        return {self.action: self.target} | ({} if self.allow else {"deny": True})

    @property
    def text(self) -> str:  # noqa: D102
        return f"net: {_flow(self.stated())}"


class ProcessRule(Rule, frozen=True, kw_only=True):
    """`exec` of the program at `path`, or `fork` (no path)."""

    operation: str
    path: str = ""
    allow: bool = True

    @property
    def sort_key(self) -> tuple[Any, ...]:  # noqa: D102
        return (self.operation != EXEC, self.path)

    def stated(self) -> dict[str, Any]:  # noqa: D102
        if self.operation == FORK:
            return {FORK: self.allow}
        return {EXEC: self.path} | _literal(self.path) | ({} if self.allow else {"deny": True})

    @property
    def text(self) -> str:  # noqa: D102
        return f"process: {_flow(self.stated())}"


class ImportRule(Rule, frozen=True, kw_only=True):
    """A module name (`kind` module) or the native code of one (`kind` native), with all below it."""

    kind: str
    name: str
    allow: bool = True

    @property
    def sort_key(self) -> tuple[Any, ...]:  # noqa: D102
        return (self.kind, self.name)

    @property
    def key(self) -> str:
        """The policy key under `import` that lists this rule."""
        return _IMPORT_KEY_OF[self.kind, self.allow]

    def stated(self) -> dict[str, Any]:  # noqa: D102
        return {self.key: [self.name]}

    @property
    def text(self) -> str:  # noqa: D102
        return f"import: {_flow(self.stated())}"


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """One credential: its name, where the supervisor finds it (`env:NAME`, `file:/path`), and what it goes into."""

    name: str
    source: str
    inject: str

    @property
    def tls(self) -> bool:
        """True where it goes into requests over TLS."""
        return " https://" in self.inject

    def fragment(self) -> dict[str, Any]:
        """Return the secret as the item that a policy file would hold."""
        return {"name": self.name, "from": self.source, "inject": self.inject}


def canonical_files(rules: Iterable[FileRule]) -> tuple[FileRule, ...]:
    """Merge the rules of each path, drop an allow that a deny at the same path beats, sort."""
    allowed: dict[str, set[str]] = {}
    denied: dict[str, set[str]] = {}
    reasons: dict[str, set[str | None]] = {}
    for rule in rules:
        allowed.setdefault(rule.path, set()).update(rule.allow)
        denied.setdefault(rule.path, set()).update(rule.deny)
        reasons.setdefault(rule.path, set()).add(rule.reason)
    return tuple(
        FileRule(
            path=path,
            allow=tuple(r for r in FILE_RIGHTS if r in allowed[path] and r not in denied[path]),
            deny=tuple(r for r in FILE_RIGHTS if r in denied[path]),
            reason=_joined(reasons[path]),
        )
        for path in sorted(allowed)
        if allowed[path] or denied[path]
    )


def _joined(reasons: Iterable[str | None]) -> str | None:
    """Return the reasons of rules that became one, in an order that does not depend on theirs."""
    return "; ".join(sorted({reason for reason in reasons if reason is not None})) or None


_R = TypeVar("_R", NetworkRule, ProcessRule, ImportRule)


def canonical_others(rules: Iterable[_R]) -> tuple[_R, ...]:
    """Keep one rule per thing spoken of, a deny where there is one, and sort."""
    kept: dict[tuple[Any, ...], _R] = {}
    reasons: dict[tuple[tuple[Any, ...], bool], set[str | None]] = {}
    for rule in rules:
        reasons.setdefault((rule.sort_key, rule.allow), set()).add(rule.reason)
        if rule.sort_key not in kept or not rule.allow:
            kept[rule.sort_key] = rule
    return tuple(
        msgspec.structs.replace(kept[key], reason=_joined(reasons[key, kept[key].allow])) for key in sorted(kept)
    )


def name_table(rules: tuple[ImportRule, ...], kind: str) -> dict[str, bool]:
    """Return what rules of one kind say; a native grant lets the module be imported, too."""
    table = {rule.name: rule.allow for rule in rules if rule.kind == kind}
    if kind == "module":
        natives = {rule.name for rule in rules if rule.kind == "native" and rule.allow and rule.name[0] != "/"}
        table = dict.fromkeys(natives, True) | table
    return table


class PolicyFields(Protocol):
    """The fields of a policy, for what reads one without making one: the base of a file, the writer of its text."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def mode(self) -> Mode: ...  # noqa: D102
    @property
    def modes(self) -> tuple[tuple[str, Mode], ...]: ...  # noqa: D102
    @property
    def files(self) -> tuple[FileRule, ...]: ...  # noqa: D102
    @property
    def network(self) -> tuple[NetworkRule, ...]: ...  # noqa: D102
    @property
    def egress(self) -> EgressLimits: ...  # noqa: D102
    @property
    def inspect_tls(self) -> bool: ...  # noqa: D102
    @property
    def processes(self) -> tuple[ProcessRule, ...]: ...  # noqa: D102
    @property
    def imports(self) -> tuple[ImportRule, ...]: ...  # noqa: D102
    @property
    def jit(self) -> bool: ...  # noqa: D102
    @property
    def switches(self) -> tuple[Capability, ...]: ...  # noqa: D102
    @property
    def random(self) -> bool: ...  # noqa: D102
    @property
    def random_seed(self) -> int | None: ...  # noqa: D102
    @property
    def ask(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def secrets(self) -> tuple[Secret, ...]: ...  # noqa: D102
    @property
    def workspace(self) -> int | None: ...  # noqa: D102
    @property
    def environment(self) -> str | None: ...  # noqa: D102
    @property
    def limits(self) -> Limits: ...  # noqa: D102
