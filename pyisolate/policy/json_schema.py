"""The JSON Schema of policy files, for editors and for what writes policies: made from the tables that reading goes by.

What it refuses, `Policy.load` refuses too. The reverse does not hold: only reading finds rules that contradict one
another, and ranges of addresses that are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from ..choices import BetweenRequests
from ..decision import Mode
from . import units
from .parse import FORMATS, PRESETS
from .rules import EXEC, FILE_RIGHTS, FORK, IMPORT_KEYS, MODE_GROUPS, NET_ACTIONS
from .schema import (
    ASKABLE,
    EGRESS_KEYS,
    FILE_KEYS,
    FORMAT_VERSION,
    INSPECT_TLS,
    MAX_RULES,
    MEMORY_KEYS,
    NETWORK_KEYS,
    PROCESS_KEYS,
    RANDOM_KEYS,
    SECRET_KEYS,
    TOP_KEYS,
)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_Fragment = dict[str, Any]

_FLAG: _Fragment = {"type": "boolean"}
_TEXT: _Fragment = {"type": "string", "minLength": 1}
_HTTP: _Fragment = {"type": "string", "pattern": r"^(\*|[A-Z]+) [^/ ]+/"}
_REASON: _Fragment = {"type": "string", "minLength": 1, "maxLength": units.REASON_LIMIT,
                      "description": "Shown in events where this rule decides."}  # fmt: skip
_MODE: _Fragment = {"enum": [str(mode) for mode in Mode]}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a policy file."""
    return {
        "$schema": _DIALECT,
        "title": "pyisolate policy",
        "description": "What a guest may do. Nothing is granted that no rule grants.",
        **_mapping(TOP_KEYS, _top()),
    }


def _mapping(keys: Iterable[str], known: _Fragment, **more: Any) -> _Fragment:
    """Return the schema of a mapping of these keys; one without an entry in `known` may hold anything."""
    return {
        "type": "object",
        "properties": {key: known.get(key, {}) for key in keys},
        "additionalProperties": False,
        **more,
    }


def _list(items: _Fragment, about: str) -> _Fragment:
    return {"type": "array", "items": items, "maxItems": MAX_RULES, "description": about}


def _top() -> _Fragment:
    known: _Fragment = {
        "version": {"const": FORMAT_VERSION, "description": "The format; may be left out."},
        "name": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.@+ \-]{0,62}$",
            "description": "Shown in events, and a label of metrics.",
        },
        "extends": {"anyOf": [{"enum": list(PRESETS)}, {"type": "string", "pattern": _file_pattern()}],
                    "description": "A preset whose rules come first, or the file of a policy that this one narrows."},
        "mode": {**_MODE, "description": "monitor refuses nothing but the floor, and records what would be refused."},
        "modes": _mapping(MODE_GROUPS, dict.fromkeys(MODE_GROUPS, _MODE), description="The mode of one group."),
        "fs": _list(_file_rule(), "Rights at a path and all below it."),
        "net": _list(_network_rule(), "What may be connected to and bound."),
        "process": _list(_process_rule(), "Programs, and child processes."),
        "import": _mapping(IMPORT_KEYS, dict.fromkeys(IMPORT_KEYS, _list(_TEXT, "Names of modules.")),
                           description="Modules; `native` also grants their native code."),
        "memory": _mapping(MEMORY_KEYS, {"jit": _FLAG}, description="jit: memory that is written and then run."),
        "random": _mapping(RANDOM_KEYS, {"allow": _FLAG, "seed": {"type": ["integer", "null"], "minimum": 0}},
                           description="The kernel's random numbers."),
        "ask": _list({"enum": list(ASKABLE)}, "What the host is asked about where no rule speaks of it."),
        "egress": _mapping(EGRESS_KEYS, {key: _or_null(_limit(parse)) for key, (_, parse, _) in
                                         units.EGRESS_KEYS.items()} | {INSPECT_TLS: _FLAG},
                           description="What one sandbox has of the egress proxy."),
        "secrets": _list(_mapping(SECRET_KEYS, dict.fromkeys(SECRET_KEYS, _TEXT), required=list(SECRET_KEYS)),
                         "Credentials that the egress proxy puts into requests: where they come from, never values."),
        "workspace": {**_or_null(_number(units.SIZE_UNITS)), "description": "Memory for the guest's own files."},
        "environment": {**_or_null({"type": "string", "pattern": "^/"}),
                        "description": "The directory of an environment, whose packages guests import."},
        "limits": _mapping(units.LIMIT_KEYS, {key: _or_null(_limit(parse)) for key, (_, parse, _) in
                                              units.LIMIT_KEYS.items()},
                           description="null is no limit of the policy's own."),
    }  # fmt: skip
    return known


def _file_rule() -> _Fragment:
    rights = _list({"enum": list(FILE_RIGHTS)}, "Rights.")
    known = {"path": _path(units.PATH_VARIABLES), "allow": rights, "deny": rights, "literal": _FLAG, "reason": _REASON}
    return _mapping(FILE_KEYS, known, required=["path"], anyOf=[{"required": ["allow"]}, {"required": ["deny"]}])


def _network_rule() -> _Fragment:
    known = {
        "connect": _target(units.NET_VARIABLES),
        "bind": _target(()),
        "http": _HTTP,
        "deny": _FLAG,
        "reason": _REASON,
    }
    return _mapping(NETWORK_KEYS, known, oneOf=[{"required": [action]} for action in NET_ACTIONS])


def _process_rule() -> _Fragment:
    known = {EXEC: _path(()), FORK: _FLAG, "deny": _FLAG, "literal": _FLAG, "reason": _REASON}
    return _mapping(PROCESS_KEYS, known, **{"not": {"required": [EXEC, FORK]}})


def _path(variables: tuple[str, ...]) -> _Fragment:
    absolute = {"type": "string", "pattern": "^/"}
    return {"anyOf": [absolute, {"enum": list(variables)}]} if variables else absolute


def _target(variables: tuple[str, ...]) -> _Fragment:
    written = {"type": "string", "pattern": r"^(unix:/|[^/]+(/[0-9]+)?:([0-9]{1,5}(-[0-9]{1,5})?|\*)$)"}
    return {"anyOf": [written, {"enum": list(variables)}]} if variables else written


def _file_pattern() -> str:
    suffixes = "|".join(suffix.removeprefix(".") for suffix in FORMATS)
    return rf"\.({suffixes})$"


def _limit(parse: Any) -> _Fragment:
    """Return the schema of what a parser of `units` takes; anything where it is not known here."""
    known: dict[Any, _Fragment] = {
        units.size: _number(units.SIZE_UNITS),
        units.duration: _number(units.DURATION_UNITS),
        units.count: {"type": "integer", "minimum": 1},
        units.between_requests: {"enum": list(get_args(BetweenRequests))},
    }
    return known.get(parse, {})


def _number(known: Iterable[str]) -> _Fragment:
    """Return the schema of a number, or of one with a unit: in any case, as reading takes them."""
    names = "|".join("".join(f"[{c.upper()}{c.lower()}]" for c in unit) for unit in known)
    text = {"type": "string", "pattern": rf"^\s*[0-9]{{1,20}}(\.[0-9]{{1,9}})?\s*({names})\s*$"}
    return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text]}


def _or_null(fragment: _Fragment) -> _Fragment:
    return {"anyOf": [fragment, {"type": "null"}]}
