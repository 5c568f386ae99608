"""The JSON Schema of policy files, for editors and for what writes policies: made from the tables that reading goes by.

What it refuses, `Policy.load` refuses too. The reverse does not hold: only reading finds rules that contradict one
another, and ranges of addresses that are none.
"""

from __future__ import annotations

from typing import Any

from ..decision import Mode
from . import units
from .fragments import FLAG, TEXT, Fragment, items, mapping
from .parse import FORMATS, PRESETS
from .rules import EXEC, FILE_RIGHTS, FORK, IMPORT_KEYS, MODE_GROUPS, NET_ACTIONS
from .schema import FILE_KEYS, FORMAT_VERSION, NETWORK_KEYS, PROCESS_KEYS, TOP_KEYS
from .sections import SECTIONS

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_HTTP: Fragment = {"type": "string", "pattern": r"^(\*|[A-Z]+) [^/ ]+/"}
_REASON: Fragment = {"type": "string", "minLength": 1, "maxLength": units.REASON_LIMIT,
                      "description": "Shown in events where this rule decides."}  # fmt: skip
_MODE: Fragment = {"enum": [str(mode) for mode in Mode]}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a policy file."""
    return {
        "$schema": _DIALECT,
        "title": "pyisolate policy",
        "description": "What a guest may do. Nothing is granted that no rule grants.",
        **mapping(TOP_KEYS, _top()),
    }


def _top() -> Fragment:
    known: Fragment = {
        "version": {"const": FORMAT_VERSION, "description": "The format; may be left out."},
        "name": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.@+ \-]{0,62}$",
            "description": "Shown in events, and a label of metrics.",
        },
        "extends": {"anyOf": [{"enum": list(PRESETS)}, {"type": "string", "pattern": _file_pattern()}],
                    "description": "A preset whose rules come first, or the file of a policy that this one narrows."},
        "mode": {**_MODE, "description": "monitor refuses nothing but the floor, and records what would be refused."},
        "modes": mapping(MODE_GROUPS, dict.fromkeys(MODE_GROUPS, _MODE), description="The mode of one group."),
        "fs": items(_file_rule(), "Rights at a path and all below it."),
        "net": items(_network_rule(), "What may be connected to and bound."),
        "process": items(_process_rule(), "Programs, and child processes."),
        "import": mapping(IMPORT_KEYS, dict.fromkeys(IMPORT_KEYS, items(TEXT, "Names of modules.")),
                           description="Modules; `native` also grants their native code."),
        **{section.key: section.schema for section in SECTIONS},
    }  # fmt: skip
    return known


def _file_rule() -> Fragment:
    rights = items({"enum": list(FILE_RIGHTS)}, "Rights.")
    known = {"path": _path(units.PATH_VARIABLES), "allow": rights, "deny": rights, "literal": FLAG, "reason": _REASON}
    return mapping(FILE_KEYS, known, required=["path"], anyOf=[{"required": ["allow"]}, {"required": ["deny"]}])


def _network_rule() -> Fragment:
    known = {
        "connect": _target(units.NET_VARIABLES),
        "bind": _target(()),
        "http": _HTTP,
        "deny": FLAG,
        "reason": _REASON,
    }
    return mapping(NETWORK_KEYS, known, oneOf=[{"required": [action]} for action in NET_ACTIONS])


def _process_rule() -> Fragment:
    known = {EXEC: _path(()), FORK: FLAG, "deny": FLAG, "literal": FLAG, "reason": _REASON}
    return mapping(PROCESS_KEYS, known, **{"not": {"required": [EXEC, FORK]}})


def _path(variables: tuple[str, ...]) -> Fragment:
    absolute = {"type": "string", "pattern": "^/"}
    return {"anyOf": [absolute, {"enum": list(variables)}]} if variables else absolute


def _target(variables: tuple[str, ...]) -> Fragment:
    written = {"type": "string", "pattern": r"^(unix:/|[^/]+(/[0-9]+)?:([0-9]{1,5}(-[0-9]{1,5})?|\*)$)"}
    return {"anyOf": [written, {"enum": list(variables)}]} if variables else written


def _file_pattern() -> str:
    suffixes = "|".join(suffix.removeprefix(".") for suffix in FORMATS)
    return rf"\.({suffixes})$"
