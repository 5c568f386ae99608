"""Policies from files, shipped ones and text: what `Policy.load` and `Policy.preset` do, as functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .parse import MAX_BYTES as MAX_BYTES
from .parse import PRESETS as PRESETS
from .parse import parse_bytes
from .policy import Policy


def load_path(path: Path) -> Policy:
    """Read a policy file; its suffix tells the format, and YAML is the default."""
    return Policy.load(path)


def load_preset(name: Any) -> Policy:
    """Return a shipped policy by name."""
    return Policy.preset(name)


def load_bytes(text: bytes, *, format: str = "yaml", file: str | None = None) -> Policy:
    """Return the policy that `text` states; `format` is yaml, toml or json. Raises only PolicySyntaxError."""
    data, lines = parse_bytes(text, format=format, file=file)
    return Policy.from_data(data, file=file, lines=lines)
