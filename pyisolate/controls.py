"""Control characters in a guest's text: what a terminal obeys, and what turns text round that follows (UAX 9)."""

from __future__ import annotations

import re

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def without_controls(text: str, but: str = "\n\t") -> str:
    """Return text with `\\xNN` or `\\uNNNN` in the place of each of them, but for the characters of `but`."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in but else _escaped(found[0]), text)


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if char < "\x80" else f"\\u{ord(char):04x}"
