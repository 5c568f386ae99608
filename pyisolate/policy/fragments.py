"""Parts of the JSON Schema of policy files, for rules and sections alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from ..choices import BetweenRequests
from . import units
from .reader import MAX_RULES

Fragment = dict[str, Any]

FLAG: Fragment = {"type": "boolean"}
TEXT: Fragment = {"type": "string", "minLength": 1}


def mapping(keys: Iterable[str], known: Fragment, **more: Any) -> Fragment:
    """Return the schema of a mapping of these keys; one without an entry in `known` may hold anything."""
    return {
        "type": "object",
        "properties": {key: known.get(key, {}) for key in keys},
        "additionalProperties": False,
        **more,
    }


def items(one: Fragment, about: str) -> Fragment:
    """Return the schema of a list, which `about` describes."""
    return {"type": "array", "items": one, "maxItems": MAX_RULES, "description": about}


def limit(parse: Any) -> Fragment:
    """Return the schema of what a parser of `units` takes; anything where it is not known here."""
    known: dict[Any, Fragment] = {
        units.size: number(units.SIZE_UNITS),
        units.pages: number(units.SIZE_UNITS),
        units.duration: number(units.DURATION_UNITS),
        units.count: {"type": "integer", "minimum": 1},
        units.between_requests: {"enum": list(get_args(BetweenRequests))},
    }
    return known.get(parse, {})


def number(known: Iterable[str]) -> Fragment:
    """Return the schema of a number, or of one with a unit: in any case, as reading takes them."""
    names = "|".join("".join(f"[{c.upper()}{c.lower()}]" for c in unit) for unit in known)
    text = {"type": "string", "pattern": rf"^\s*[0-9]{{1,20}}(\.[0-9]{{1,9}})?\s*({names})\s*$"}
    return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text]}


def or_null(fragment: Fragment) -> Fragment:
    """Return the schema of what may be null, too."""
    return {"anyOf": [fragment, {"type": "null"}]}
