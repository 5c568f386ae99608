"""Plain data of the policy file's shape -> `Policy`. Every complaint names the key, the line and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import msgspec

from ..decision import Mode
from ..errors import PolicySyntaxError
from . import units
from .compiled import EgressLimits, Limits
from .rules import (
    EXEC,
    FILE_RIGHTS,
    FORK,
    IMPORT_KEYS,
    MODE_GROUPS,
    NET_ACTIONS,
    FileRule,
    ImportRule,
    NetworkRule,
    PolicyFields,
    ProcessRule,
)
from .secrets import Secret, secret
from .workspace import workspace_size

FORMAT_VERSION = 1
TOP_KEYS = (
    "version", "name", "extends", "mode", "modes", "fs", "net", "egress", "process", "import", "memory", "random",
    "ask", "secrets", "workspace", "environment", "limits",
)  # fmt: skip
#: What an item of each section may hold.
FILE_KEYS = ("path", "allow", "deny", "literal", "reason")
NETWORK_KEYS = (*NET_ACTIONS, "deny", "reason")
PROCESS_KEYS = (EXEC, FORK, "deny", "literal", "reason")
SECRET_KEYS = ("name", "from", "inject")
INSPECT_TLS = "inspect_tls"
EGRESS_KEYS = (*units.EGRESS_KEYS, INSPECT_TLS)
RANDOM_KEYS = ("allow", "seed")
MEMORY_KEYS = ("jit",)
#: What can wait for an answer: calls that the supervisor carries out, on its own copy of what was asked about.
ASKABLE = ("net.connect",)
#: More rules than anybody writes by hand; bounds the work that a hostile policy text can cause.
MAX_RULES = 10_000

Where = tuple[str | int, ...]


class _Reader:
    """Walks plain data and knows where each item stood in the text."""

    def __init__(self, file: str | None, lines: Mapping[Where, int]) -> None:
        self.file, self.lines = file, lines
        #: what each rule speaks of -> whether it was allowed, to find rules that contradict one another
        self.allowed: dict[Any, bool] = {}

    def line(self, where: Where) -> int | None:
        """Return the line of the item, or of the closest one around it that is known."""
        while where not in self.lines:
            if not where:
                return None
            where = where[:-1]
        return self.lines[where]

    def fail(self, where: Where, message: str, hint: str | None) -> NoReturn:
        key = _key_text(where)
        raise PolicySyntaxError(message, file=self.file, line=self.line(where), key=key, hint=hint)

    def read(self, where: Where, parse: Callable[..., Any], value: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a parser of `units` and say where its complaint belongs."""
        try:
            return parse(value, *args, **kwargs)
        except PolicySyntaxError as error:
            self.fail(where, error.summary, error.hint)

    def mapping(self, where: Where, value: Any, known: Iterable[str]) -> dict[str, Any]:
        name = _key_text(where) or "policy"
        known = tuple(known)
        if not isinstance(value, dict):
            self.fail(where, f"{name}: expected a mapping, got {_kind(value)}", f"keys are: {', '.join(known)}")
        for key in value:
            if not isinstance(key, str) or key not in known:
                self.fail(
                    (*where, str(key)), f"{name}: unknown key {str(key)[:60]!r}", units.did_you_mean(str(key), known)
                )
        return value

    def sequence(self, where: Where, value: Any, what: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            self.fail(where, f"{_key_text(where)}: expected a list, got {_kind(value)}", f"write a list of {what}")
        if len(value) > MAX_RULES:
            self.fail(where, f"{_key_text(where)}: {len(value)} items", f"at most {MAX_RULES} are read")
        return list(value)


def _key_text(where: Where) -> str | None:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text[:200] or None


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)


def read_fields(
    data: Any,
    *,
    empty: PolicyFields,
    preset: Callable[[Any], PolicyFields],
    file: str | None = None,
    lines: Mapping[Where, int] | None = None,
) -> dict[str, Any]:
    """Return the fields of the policy that `data` describes. Raises PolicySyntaxError.

    `preset` finds what `extends` names, `empty` is the base without it; `lines` maps key paths to 1-based lines, for
    errors.
    """
    reader = _Reader(file, lines or {})
    top = reader.mapping((), data, TOP_KEYS)
    _check_version(reader, top)
    base = empty
    if "extends" in top:
        base = reader.read(("extends",), preset, top["extends"])
    fields: dict[str, Any] = {"name": base.name}
    if "name" in top:
        fields["name"] = reader.read(("name",), units.policy_name, top["name"])
    mode = fields["mode"] = reader.read(("mode",), read_mode, top.get("mode", base.mode))
    fields["modes"] = base.modes + tuple(
        (group, reader.read(("modes", group), read_mode, value))
        for group, value in reader.mapping(("modes",), top.get("modes", {}), MODE_GROUPS).items()
    )
    fields["modes"] = tuple((group, value) for group, value in fields["modes"] if value is not mode)
    fields["files"] = base.files + _files(reader, top.get("fs", []))
    fields["network"] = base.network + _network(reader, top.get("net", []))
    fields["egress"], fields["inspect_tls"] = base.egress, base.inspect_tls
    if "egress" in top:
        known = reader.mapping(("egress",), top["egress"], EGRESS_KEYS)
        if INSPECT_TLS in known:
            fields["inspect_tls"] = _flag(reader, ("egress", INSPECT_TLS), known.pop(INSPECT_TLS))
        for key, value in known.items():
            fields["egress"] = reader.read(("egress", key), read_egress, {key: value}, base=fields["egress"])
    fields["processes"] = base.processes + _processes(reader, top.get("process", []))
    fields["imports"] = base.imports + _imports(reader, top.get("import", {}))
    fields["jit"] = base.jit
    if "memory" in top:
        item = reader.mapping(("memory",), top["memory"], MEMORY_KEYS)
        fields["jit"] = _flag(reader, ("memory", "jit"), item.get("jit", base.jit))
    fields["random"], fields["random_seed"] = base.random, base.random_seed
    if "random" in top:
        fields["random"], fields["random_seed"] = _random(reader, top["random"])
    fields["ask"] = base.ask
    if "ask" in top:
        named = reader.sequence(("ask",), top["ask"], "capabilities: " + ", ".join(ASKABLE))
        fields["ask"] = reader.read(("ask",), read_ask, named)
    fields["secrets"] = base.secrets + _secrets(reader, top.get("secrets", []))
    fields["workspace"] = base.workspace
    if "workspace" in top:
        fields["workspace"] = reader.read(("workspace",), workspace_size, top["workspace"])
    fields["environment"] = base.environment
    if "environment" in top:
        fields["environment"] = reader.read(("environment",), read_environment, top["environment"])
    fields["limits"] = _limits(reader, base.limits, top.get("limits", {}))
    return fields


def _check_version(reader: _Reader, top: dict[str, Any]) -> None:
    version = top.get("version", FORMAT_VERSION)
    if version != FORMAT_VERSION or isinstance(version, bool):
        reader.fail(
            ("version",), f"version {str(version)[:20]!r}: unknown policy format", f"write version: {FORMAT_VERSION}"
        )


def _files(reader: _Reader, value: Any) -> tuple[FileRule, ...]:
    rules: list[FileRule] = []
    seen: dict[tuple[str, str], bool] = {}
    for i, item in enumerate(reader.sequence(("fs",), value, "{path: ..., allow: [read]}")):
        at: Where = ("fs", i)
        item = reader.mapping(at, item, FILE_KEYS)
        if "path" not in item:
            reader.fail(at, f"fs[{i}]: no path", "write {path: /srv/data, allow: [read]}")
        literal = _flag(reader, (*at, "literal"), item.get("literal", False))
        path = reader.read((*at, "path"), units.path, item["path"], literal=literal)
        rights = {side: _rights(reader, (*at, side), item.get(side, [])) for side in ("allow", "deny")}
        if not any(rights.values()):
            reader.fail(at, f"fs[{i}] {path}: neither allows nor denies anything", "add allow: [read]")
        for side, names in rights.items():
            for j, right in enumerate(names):
                if seen.setdefault((path, right), side == "allow") is not (side == "allow"):
                    reader.fail(
                        (*at, side, j), f"fs[{i}] {path}: both allows and denies {right}", "keep one of the two"
                    )
        reason = _reason(reader, at, item)
        rules.append(FileRule(path=path, allow=rights["allow"], deny=rights["deny"], reason=reason))
    return tuple(rules)


def _rights(reader: _Reader, where: Where, value: Any) -> tuple[str, ...]:
    names = reader.sequence(where, value, f"rights: {', '.join(FILE_RIGHTS)}")
    for j, name in enumerate(names):
        if not isinstance(name, str) or name not in FILE_RIGHTS:
            hint = units.did_you_mean(str(name), FILE_RIGHTS)
            reader.fail((*where, j), f"{_key_text(where)}: unknown right {str(name)[:60]!r}", hint)
    return tuple(names)


def _reason(reader: _Reader, at: Where, item: dict[str, Any]) -> str | None:
    return reader.read((*at, "reason"), units.reason, item["reason"]) if "reason" in item else None


def _flag(reader: _Reader, where: Where, value: Any) -> bool:
    if not isinstance(value, bool):
        reader.fail(where, f"{_key_text(where)}: expected true or false, got {_kind(value)}", "write true or false")
    return value


def _network(reader: _Reader, value: Any) -> tuple[NetworkRule, ...]:
    rules = []
    for i, item in enumerate(reader.sequence(("net",), value, '{connect: "host:port"}')):
        at: Where = ("net", i)
        item = reader.mapping(at, item, NETWORK_KEYS)
        allow = not _flag(reader, (*at, "deny"), item.get("deny", False))
        actions = [key for key in item if key in NET_ACTIONS]
        if len(actions) != 1:
            reader.fail(at, f"net[{i}]: needs exactly one of {', '.join(NET_ACTIONS)}", 'write {connect: "host:port"}')
        target = reader.read((*at, actions[0]), net_rule_target, item[actions[0]], action=actions[0])
        reason = _reason(reader, at, item)
        rules.append(NetworkRule(action=actions[0], target=str(target), allow=allow, reason=reason))
        _agree(reader, at, rules)
    return tuple(rules)


def net_rule_target(value: object, *, action: str) -> str:
    """Return the canonical target of a network rule. Raises PolicySyntaxError."""
    return str(units.http_target(value) if action == "http" else units.net_target(value, action=action))


def _processes(reader: _Reader, value: Any) -> tuple[ProcessRule, ...]:
    rules = []
    for i, item in enumerate(reader.sequence(("process",), value, "{exec: /usr/bin/git} or {fork: true}")):
        at: Where = ("process", i)
        item = reader.mapping(at, item, PROCESS_KEYS)
        if (EXEC in item) == (FORK in item) or (FORK in item and not item.keys() <= {FORK, "reason"}):
            reader.fail(at, f"process[{i}]: cannot be read", "write {exec: /usr/bin/git} or {fork: true}")
        reason = _reason(reader, at, item)
        if FORK in item:
            rules.append(ProcessRule(operation=FORK, allow=_flag(reader, (*at, FORK), item[FORK]), reason=reason))
        else:
            literal = _flag(reader, (*at, "literal"), item.get("literal", False))
            path = reader.read((*at, EXEC), units.path, item[EXEC], variables=False, literal=literal)
            allow = not _flag(reader, (*at, "deny"), item.get("deny", False))
            rules.append(ProcessRule(operation=EXEC, path=path, allow=allow, reason=reason))
        _agree(reader, at, rules)
    return tuple(rules)


def _agree(reader: _Reader, at: Where, rules: list[Any]) -> None:
    """Fail where the last rule allows what an earlier one denies, or the reverse."""
    last = rules[-1]
    if reader.allowed.setdefault((type(last), last.sort_key), last.allow) is not last.allow:
        reader.fail(at, f"{last.text}: both allowed and denied", "keep one of the two")


def _imports(reader: _Reader, value: Any) -> tuple[ImportRule, ...]:
    rules: list[ImportRule] = []
    for key, names in reader.mapping(("import",), value, IMPORT_KEYS).items():
        kind, allow = IMPORT_KEYS[key]
        for j, name in enumerate(reader.sequence(("import", key), names, "module names")):
            at: Where = ("import", key, j)
            name = reader.read(at, units.module_name, name, native=kind == "native")
            rules.append(ImportRule(kind=kind, name=name, allow=allow))
            _agree(reader, at, rules)
    return tuple(rules)


def _random(reader: _Reader, value: Any) -> tuple[bool, int | None]:
    item = reader.mapping(("random",), value, RANDOM_KEYS)
    allow = _flag(reader, ("random", "allow"), item.get("allow", True))
    seed = reader.read(("random", "seed"), read_seed, item.get("seed"))
    if allow and seed is not None:
        reader.fail(("random", "seed"), "random.seed: has no effect while random is allowed", "write allow: false")
    return allow, seed


def read_ask(names: Iterable[Any]) -> tuple[str, ...]:
    """Return the capabilities that the host may be asked about, in order. Raises PolicySyntaxError."""
    found = [str(name) for name in names]
    for name in found:
        if name not in ASKABLE:
            raise PolicySyntaxError(f"ask: {name[:60]!r} cannot be asked about", hint=f"use {', '.join(ASKABLE)}")
    return tuple(sorted(set(found)))


def _secrets(reader: _Reader, value: Any) -> tuple[Secret, ...]:
    found = []
    for i, item in enumerate(reader.sequence(("secrets",), value, "{name: ..., from: env:NAME, inject: ...}")):
        at: Where = ("secrets", i)
        found.append(reader.read(at, secret, reader.mapping(at, item, SECRET_KEYS)))
    return tuple(found)


def read_egress(value: Mapping[str, Any], *, base: EgressLimits) -> EgressLimits:
    """Return `base` changed by policy-file keys and units; None is no limit. Raises PolicySyntaxError."""
    for key, item in value.items():
        if key not in units.EGRESS_KEYS:
            raise PolicySyntaxError(
                f"egress: unknown key {key[:60]!r}", hint=units.did_you_mean(key, units.EGRESS_KEYS)
            )
        field, parser, _ = units.EGRESS_KEYS[key]
        base = msgspec.structs.replace(base, **{field: None if item is None else parser(item, f"egress.{key}")})
    return base


def read_environment(value: Any) -> str | None:
    """Return the directory of an environment, None for the interpreter's own packages. Raises PolicySyntaxError."""
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.startswith("/") or not text.isprintable():
        raise PolicySyntaxError(
            f"environment {str(value)[:60]!r}: expected the absolute path of a directory",
            hint="`pyisolate environment list` prints those that are built",
        )
    return os.path.realpath(text)


def read_seed(value: Any) -> int | None:
    """Return a seed for reproducible random numbers, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise PolicySyntaxError("seed: expected a whole number", hint="use 0 to 2**63-1")
    return value


def read_mode(value: Any) -> Mode:
    """Return the mode that `value` names."""
    if isinstance(value, str) and value in tuple(Mode):
        return Mode(value)
    raise PolicySyntaxError(f"mode {str(value)[:40]!r}: unknown mode", hint="use enforce or monitor")


def _limits(reader: _Reader, base: Limits, value: Any) -> Limits:
    for key, item in reader.mapping(("limits",), value, units.LIMIT_KEYS).items():
        base = msgspec.structs.replace(
            base, **{units.LIMIT_KEYS[key][0]: reader.read(("limits", key), _limit, item, key)}
        )
    return base


def read_limits(value: Mapping[str, Any], *, base: Limits) -> Limits:
    """Return `base` changed by policy-file keys and units; None is "no limit of its own"."""
    for key in value:
        if key not in units.LIMIT_KEYS:
            raise PolicySyntaxError(f"limits: unknown key {key[:60]!r}", hint=units.did_you_mean(key, units.LIMIT_KEYS))
    return msgspec.structs.replace(base, **{units.LIMIT_KEYS[key][0]: _limit(item, key) for key, item in value.items()})


def _limit(value: Any, key: str) -> Any:
    if value is None and key != "between_requests":
        return None
    return units.LIMIT_KEYS[key][1](value, f"limits.{key}")
