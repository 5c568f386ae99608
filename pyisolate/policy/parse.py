"""Policy text -> plain data with line numbers.

The text may be hostile: size, depth and node count are capped before anything is built, YAML aliases, anchors and
tags are refused, and whatever goes wrong is a `PolicySyntaxError`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ..errors import PolicySyntaxError
from . import units
from .reader import Where

MAX_BYTES = 256 << 10
MAX_DEPTH = 16
#: A text of MAX_BYTES cannot hold a sensible policy of more nodes; bounds memory and time.
MAX_NODES = 50_000
FORMATS = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
PRESETS = ("compute", "data", "none", "readonly", "shell", "web-client", "web-names")

_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")
#: A dotted key of TOML with more parts than anything in a policy has.
_LONG_KEY = re.compile(r"""(?<![\w.-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")
_FLOAT = re.compile(r"[-+]?[0-9]{1,19}\.[0-9]{0,19}")
_CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
              "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}  # fmt: skip


def parse_path(path: Path) -> tuple[Any, dict[Where, int]]:
    """Return what `parse_bytes` does of a file; its suffix tells the format, and YAML is the default."""
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    return parse_bytes(text, format=FORMATS.get(path.suffix.lower(), "yaml"), file=str(path))


def preset_path(name: object) -> Path:
    """Return the file of a shipped policy. Raises PolicySyntaxError for a name that none has."""
    if not isinstance(name, str) or name not in PRESETS:
        raise PolicySyntaxError(
            f"preset {str(name)[:60]!r}: no such preset", hint=units.did_you_mean(str(name), PRESETS)
        )
    return Path(__file__).parent / "presets" / f"{name}.yaml"


def parse_bytes(text: bytes, *, format: str = "yaml", file: str | None = None) -> tuple[Any, dict[Where, int]]:
    """Return the plain data that `text` holds and the line of every key path."""
    if len(text) > MAX_BYTES:
        raise PolicySyntaxError("policy: longer than 256 KiB", file=file, hint="split it, or grant directories")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise PolicySyntaxError("policy: not UTF-8", file=file, line=line, hint="save the file as UTF-8") from None
    parse = {"yaml": _parse_yaml, "toml": _parse_toml, "json": _parse_json}[format]
    try:
        return parse(decoded, file)
    except PolicySyntaxError:
        raise
    except Exception as error:  # foreign parsers raise much on hostile text (RecursionError, OverflowError ...)
        message = f"policy: cannot be read as {format.upper()}: {str(error)[:200]}"
        raise PolicySyntaxError(message, file=file, line=_line_of(error), hint=f"check the {format} syntax") from None


def _line_of(error: Exception) -> int | None:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    if isinstance(error, json.JSONDecodeError):
        return error.lineno
    match = re.search(r"at line (\d{1,9})", str(error))
    return int(match[1]) if match else None


# -- YAML -------------------------------------------------------------------------------------------------------------


class _YamlBuilder:
    """Builds plain data from parser events on an explicit stack, so nesting cannot exhaust the C stack."""

    def __init__(self, file: str | None) -> None:
        self.file, self.nodes, self.documents = file, 0, 0
        self.root: Any = None
        self.lines: dict[Where, int] = {}
        #: open collections: (container, its key path, pending mapping key or None)
        self.stack: list[tuple[Any, Where, list[str]]] = []

    def fail(self, event: Any, message: str, hint: str, key: str | None = None) -> NoReturn:
        line = event.start_mark.line + 1
        raise PolicySyntaxError(f"policy: {message}", file=self.file, line=line, key=key, hint=hint)

    def feed(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.fail(event, "more than one document", "keep one policy a file")
        elif isinstance(event, yaml.AliasEvent):
            self.fail(event, f"alias *{str(event.anchor)[:40]}", "write the value out: aliases are not read")
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            self._node(event)

    def _node(self, event: Any) -> None:
        self.nodes += 1
        if event.anchor is not None:
            self.fail(event, f"anchor &{event.anchor[:40]}", "write the value out: anchors are not read")
        if event.tag not in (None, "!"):
            self.fail(event, f"tag {event.tag[:60]}", "remove the tag: values are plain")
        if len(self.stack) >= MAX_DEPTH or self.nodes > MAX_NODES:
            self.fail(event, "nested too deeply or too large", f"a policy needs 4 levels; {MAX_DEPTH} are read")
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and not event.style
            self._place(event, _scalar(event.value) if plain else event.value)
            return
        container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        where = self._place(event, container)
        self.stack.append((container, where, []))

    def _place(self, event: Any, value: Any) -> Where:
        line = event.start_mark.line + 1
        if not self.stack:
            self.root = value
            self.lines[()] = line
            return ()
        container, where, pending = self.stack[-1]
        if isinstance(container, list):
            container.append(value)
            where = (*where, len(container) - 1)
        elif not pending:
            if not isinstance(value, str):
                self.fail(event, "a key is not text", "keys are plain words")
            if value in container:
                self.fail(event, f"duplicate key {value[:60]!r}", "keep one of the two", key=value[:60])
            pending.append(value)
            self.lines[(*where, value)] = line
            return where
        else:
            key = pending.pop()
            container[key] = value
            where = (*where, key)
        self.lines.setdefault(where, line)
        return where


def _scalar(value: str) -> Any:
    """Resolve a plain scalar as YAML 1.2 does: no `yes`, no octal, no sexagesimal `12:30`, no dates."""
    if value in _CONSTANTS:
        return _CONSTANTS[value]
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _FLOAT.fullmatch(value) else value


def _parse_yaml(text: str, file: str | None) -> tuple[Any, dict[Where, int]]:
    builder = _YamlBuilder(file)
    for event in yaml.parse(text, Loader=_YAML_LOADER):
        builder.feed(event)
    return builder.root, builder.lines


# -- JSON and TOML ----------------------------------------------------------------------------------------------------


def _check_depth(text: str, file: str | None) -> None:
    """Refuse deep nesting before a recursive parser sees it. Brackets inside strings count: they are rare."""
    depth = deepest = 0
    for char in text:
        if char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    if deepest > MAX_DEPTH:
        raise PolicySyntaxError("policy: nested too deeply", file=file, hint=f"at most {MAX_DEPTH} levels are read")


def _parse_json(text: str, file: str | None) -> tuple[Any, dict[Where, int]]:
    _check_depth(text, file)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise PolicySyntaxError(
                    f"policy: duplicate key {key[:60]!a}", file=file, key=key[:60], hint="keep one of the two"
                )
            result[key] = value
        return result

    def constant(word: str) -> Any:
        raise PolicySyntaxError(f"policy: {word} is not JSON", file=file, hint="write a number")

    data = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    try:
        return data, _parse_yaml(text, file)[1]  # JSON is YAML enough to find the lines
    except (PolicySyntaxError, yaml.YAMLError, ValueError):
        return data, {}


def _parse_toml(text: str, file: str | None) -> tuple[Any, dict[Where, int]]:
    _check_depth(text, file)
    import tomllib  # most policies are no TOML

    if match := _LONG_KEY.search(text):  # tomllib's time grows with the square of a dotted key's parts
        line = text.count("\n", 0, match.start()) + 1
        raise PolicySyntaxError("policy: a key of too many parts", file=file, line=line, hint="write tables")
    return tomllib.loads(text), _toml_lines(text)


def _toml_lines(text: str) -> dict[Where, int]:
    """Return the lines of tables and of `key =` at the start of a line; tomllib itself keeps none."""
    lines: dict[Where, int] = {(): 1}
    table: Where = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if match := re.match(r"\s*\[\[\s*([\w-]+)\s*\]\]", line, re.ASCII):
            index = counts[match[1]] = counts.get(match[1], -1) + 1
            lines.setdefault((match[1],), number)
            table = (match[1], index)
        elif match := re.match(r"\s*\[\s*([\w-]+)\s*\]", line, re.ASCII):
            table = (match[1],)
        elif match := re.match(r"\s*\"?([\w-]+)\"?\s*=", line, re.ASCII):
            lines.setdefault((*table, match[1]), number)
            continue
        else:
            continue
        lines.setdefault(table, number)
    return lines
