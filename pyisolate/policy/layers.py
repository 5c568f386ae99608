"""A policy over another's file: `extends: ./base.yaml` takes its rules, and may only narrow what they grant.

The base is the most that any policy over it can grant. What both state is compared, as `diff` does: by name, without a
look at this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import PolicySyntaxError
from . import parse
from .model import PolicyModel
from .reader import Where
from .schema import TOP_KEYS
from .sections import SECTIONS

if TYPE_CHECKING:
    from .diff import Change

MAX_LAYERS = 8
#: Rules about the network are compared at all of their edges: more of them would take seconds.
MAX_NETWORK_RULES = 100
#: What `diff` compares. A layer may hold nothing else.
_COMPARED = frozenset(TOP_KEYS) - {section.key for section in SECTIONS if not section.narrowing}
_NETWORK_COMPARED = frozenset({"connect", "bind", "http", "deny", "reason"})


def base_path(name: object, file: str | None) -> Path | None:
    """Return the file that `extends` names, from the directory of the file that says so; None for a preset.

    Raises PolicySyntaxError where the policy is no file itself, or the name has no suffix of a policy file.
    """
    if not isinstance(name, str) or ("/" not in name and Path(name).suffix.lower() not in parse.FORMATS):
        return None
    if Path(name).suffix.lower() not in parse.FORMATS:
        raise PolicySyntaxError(f"extends {name[:200]!r}: not a policy file", hint=f"name one of {_SUFFIXES}")
    if file is None:
        raise PolicySyntaxError(
            f"extends {name[:200]!r}: this policy is no file that it could lie beside",
            hint="use Policy.load(path), or a preset's name",
        )
    return Path(file).parent / name


def require_narrower(base: PolicyModel, made: PolicyModel, file: str, data: Any, lines: Mapping[Where, int]) -> None:
    """Raise PolicySyntaxError, which names the rule, where `made` grants what its base does not."""

    def fail(where: Where, message: str, hint: str) -> NoReturn:
        line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None)
        raise PolicySyntaxError(message, file=file, line=line, key=".".join(map(str, where)) or None, hint=hint)

    for where in _not_compared(data):
        fail(where, f"{where[-1]}: not in a policy that extends a file", "state it in the file that is extended")
    if len(made.network) > MAX_NETWORK_RULES:
        fail(("net",), f"net: {len(made.network)} rules", f"at most {MAX_NETWORK_RULES} over a file that is extended")
    from .diff import diff  # few policies have layers, and every one is read here

    for change in diff(base, made):
        if change.effect == "widened":
            fail(
                _where(change, data),
                f"{change.what} {change.target}: widens {data['extends']!r}, which this policy extends",
                "a policy may only narrow the file that it extends: grant it there, or leave it out here",
            )


def _not_compared(data: Any) -> Iterator[Where]:
    yield from ((key,) for key in data if key not in _COMPARED)
    for number, item in enumerate(data.get("net", [])):
        yield from (("net", number, key) for key in item if key not in _NETWORK_COMPARED)


_SUFFIXES = ", ".join(parse.FORMATS)
#: By the first word of what changed, where the section of the file has another name.
_SECTIONS = {"mode": "modes", "limit": "limits"}


def _where(change: Change, data: dict[str, Any]) -> Where:
    """Return where the data speaks of what changed: the item of its target, or else its section."""
    word = change.what.replace(" ", ".").partition(".")[0]
    own = _SECTIONS.get(word, word)
    for section in (own, *data):  # a program that may run may be read, and is stated elsewhere
        held = data.get(section)
        items = enumerate(held) if isinstance(held, list) else held.items() if isinstance(held, dict) else ()
        for key, value in items:
            stated = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            if change.target == key or change.target in map(str, stated):
                return (section, key)
    return (own,) if own in data else (word,) if word in data else ()
