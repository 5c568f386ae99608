"""Plain data of the policy file's shape -> `Policy`. Every complaint names the key, the line and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..decision import Mode
from ..errors import PolicySyntaxError
from . import units
from .reader import Reader, Where, key_text
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
from .sections import SECTIONS

FORMAT_VERSION = 1
#: The rules of a policy, and what they are of.
_RULE_KEYS = ("version", "name", "extends", "mode", "modes", "fs", "net", "process", "import")
TOP_KEYS = (*_RULE_KEYS, *(section.key for section in SECTIONS))
#: What an item of each section may hold.
FILE_KEYS = ("path", "allow", "deny", "literal", "reason")
NETWORK_KEYS = (*NET_ACTIONS, "deny", "reason")
PROCESS_KEYS = (EXEC, FORK, "deny", "literal", "reason")


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
    reader = Reader(file, lines or {})
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
    fields["processes"] = base.processes + _processes(reader, top.get("process", []))
    fields["imports"] = base.imports + _imports(reader, top.get("import", {}))
    for section in SECTIONS:
        if section.key in top:
            fields |= section.values(reader, top[section.key], base)
        else:
            fields |= {name: getattr(base, name) for name in section.fields}
    return fields


def _check_version(reader: Reader, top: dict[str, Any]) -> None:
    version = top.get("version", FORMAT_VERSION)
    if version != FORMAT_VERSION or isinstance(version, bool):
        reader.fail(
            ("version",), f"version {str(version)[:20]!r}: unknown policy format", f"write version: {FORMAT_VERSION}"
        )


def _files(reader: Reader, value: Any) -> tuple[FileRule, ...]:
    rules: list[FileRule] = []
    seen: dict[tuple[str, str], bool] = {}
    for i, item in enumerate(reader.sequence(("fs",), value, "{path: ..., allow: [read]}")):
        at: Where = ("fs", i)
        item = reader.mapping(at, item, FILE_KEYS)
        if "path" not in item:
            reader.fail(at, f"fs[{i}]: no path", "write {path: /srv/data, allow: [read]}")
        literal = reader.flag((*at, "literal"), item.get("literal", False))
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


def _rights(reader: Reader, where: Where, value: Any) -> tuple[str, ...]:
    names = reader.sequence(where, value, f"rights: {', '.join(FILE_RIGHTS)}")
    for j, name in enumerate(names):
        if not isinstance(name, str) or name not in FILE_RIGHTS:
            hint = units.did_you_mean(str(name), FILE_RIGHTS)
            reader.fail((*where, j), f"{key_text(where)}: unknown right {str(name)[:60]!r}", hint)
    return tuple(names)


def _reason(reader: Reader, at: Where, item: dict[str, Any]) -> str | None:
    return reader.read((*at, "reason"), units.reason, item["reason"]) if "reason" in item else None


def _network(reader: Reader, value: Any) -> tuple[NetworkRule, ...]:
    rules = []
    for i, item in enumerate(reader.sequence(("net",), value, '{connect: "host:port"}')):
        at: Where = ("net", i)
        item = reader.mapping(at, item, NETWORK_KEYS)
        allow = not reader.flag((*at, "deny"), item.get("deny", False))
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


def _processes(reader: Reader, value: Any) -> tuple[ProcessRule, ...]:
    rules = []
    for i, item in enumerate(reader.sequence(("process",), value, "{exec: /usr/bin/git} or {fork: true}")):
        at: Where = ("process", i)
        item = reader.mapping(at, item, PROCESS_KEYS)
        if (EXEC in item) == (FORK in item) or (FORK in item and not item.keys() <= {FORK, "reason"}):
            reader.fail(at, f"process[{i}]: cannot be read", "write {exec: /usr/bin/git} or {fork: true}")
        reason = _reason(reader, at, item)
        if FORK in item:
            rules.append(ProcessRule(operation=FORK, allow=reader.flag((*at, FORK), item[FORK]), reason=reason))
        else:
            literal = reader.flag((*at, "literal"), item.get("literal", False))
            path = reader.read((*at, EXEC), units.path, item[EXEC], variables=False, literal=literal)
            allow = not reader.flag((*at, "deny"), item.get("deny", False))
            rules.append(ProcessRule(operation=EXEC, path=path, allow=allow, reason=reason))
        _agree(reader, at, rules)
    return tuple(rules)


def _agree(reader: Reader, at: Where, rules: list[Any]) -> None:
    """Fail where the last rule allows what an earlier one denies, or the reverse."""
    last = rules[-1]
    if reader.allowed.setdefault((type(last), last.sort_key), last.allow) is not last.allow:
        reader.fail(at, f"{last.text}: both allowed and denied", "keep one of the two")


def _imports(reader: Reader, value: Any) -> tuple[ImportRule, ...]:
    rules: list[ImportRule] = []
    for key, names in reader.mapping(("import",), value, IMPORT_KEYS).items():
        kind, allow = IMPORT_KEYS[key]
        for j, name in enumerate(reader.sequence(("import", key), names, "module names")):
            at: Where = ("import", key, j)
            name = reader.read(at, units.module_name, name, native=kind == "native")
            rules.append(ImportRule(kind=kind, name=name, allow=allow))
            _agree(reader, at, rules)
    return tuple(rules)


def read_mode(value: Any) -> Mode:
    """Return the mode that `value` names."""
    if isinstance(value, str) and value in tuple(Mode):
        return Mode(value)
    raise PolicySyntaxError(f"mode {str(value)[:40]!r}: unknown mode", hint="use enforce or monitor")
