"""Plain data of a policy file, walked with the place of each item: a complaint names the key, the line and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from ..errors import PolicySyntaxError
from . import units

#: More rules than a person writes; bounds the work that a hostile policy text can cause.
MAX_RULES = 10_000

Where = tuple[str | int, ...]


class Reader:
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
        """Raise PolicySyntaxError about the item."""
        key = key_text(where)
        raise PolicySyntaxError(message, file=self.file, line=self.line(where), key=key, hint=hint)

    def read(self, where: Where, parse: Callable[..., Any], value: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a parser of `units` and say where its complaint belongs."""
        try:
            return parse(value, *args, **kwargs)
        except PolicySyntaxError as error:
            self.fail(where, error.summary, error.hint)

    def mapping(self, where: Where, value: Any, known: Iterable[str]) -> dict[str, Any]:
        """Return a mapping that has no keys but the known ones."""
        name = key_text(where) or "policy"
        known = tuple(known)
        if not isinstance(value, dict):
            self.fail(where, f"{name}: expected a mapping, got {kind_of(value)}", f"keys are: {', '.join(known)}")
        for key in value:
            if not isinstance(key, str) or key not in known:
                self.fail(
                    (*where, str(key)), f"{name}: unknown key {str(key)[:60]!r}", units.did_you_mean(str(key), known)
                )
        return value

    def sequence(self, where: Where, value: Any, what: str) -> list[Any]:
        """Return a list of at most MAX_RULES items; `what` says in the hint what is to be in it."""
        if not isinstance(value, list | tuple):
            self.fail(where, f"{key_text(where)}: expected a list, got {kind_of(value)}", f"write a list of {what}")
        if len(value) > MAX_RULES:
            self.fail(where, f"{key_text(where)}: {len(value)} items", f"at most {MAX_RULES} are read")
        return list(value)

    def flag(self, where: Where, value: Any) -> bool:
        """Return true or false."""
        if not isinstance(value, bool):
            self.fail(where, f"{key_text(where)}: expected true or false, got {kind_of(value)}", "write true or false")
        return value


def key_text(where: Where) -> str | None:
    """Return the place as errors show it, `net[2].connect`; None for the whole."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text[:200] or None


def kind_of(value: Any) -> str:
    """Return what a value is, in the words of an error."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)
