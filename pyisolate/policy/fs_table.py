"""The file rules of a policy while they are being collected: one entry a path, links followed."""

from __future__ import annotations

import os

from .compiled import FsRight, FsRule, effective_rights

#: Whose text and origin a path keeps, where several rules meet at it.
_RANK = {"fs": 0, "workspace": 0, "environment": 0, "process": 1, "random": 2, "import": 3, "system": 4}


class _Entry:
    __slots__ = ("allow", "deny", "implied", "origin", "texts")

    def __init__(self, origin: str) -> None:
        self.allow = self.deny = 0
        self.origin = origin
        self.implied = True
        self.texts: dict[str, None] = {}


class FsTable:
    """Collects rules by path. A rule at a symbolic link also holds where the link leads (kernel rules do)."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._edges: dict[str, int] = {}

    def add(
        self,
        path: str,
        allow: int,
        deny: int = 0,
        *,
        text: str,
        origin: str,
        implied: bool = False,
        link: bool = True,
    ) -> None:
        """Add rights at `path`. `implied` marks what a wider rule needs rather than what the policy names.

        `link` False: a path that is the guest's alone; what this machine has there means nothing.
        """
        real = os.path.realpath(path) if link else path
        for place in (path, real) if real != path else (path,):
            entry = self._entries.setdefault(place, _Entry(origin))
            entry.allow |= allow
            entry.deny |= deny
            if not implied:
                entry.texts = {text: None} if entry.implied else entry.texts | {text: None}
            elif entry.implied and _RANK[origin] <= _RANK[entry.origin]:
                entry.texts = entry.texts if entry.texts and origin == entry.origin else {text: None}
            if (entry.implied, _RANK[entry.origin]) > (implied, _RANK[origin]):
                entry.origin = origin
            entry.implied = entry.implied and implied

    def edge(self, path: str, bits: int = FsRight.READ | FsRight.MAP_EXEC) -> None:
        """End an implied grant at `path`, unless the policy itself names a grant there or above."""
        real = os.path.realpath(path)
        for place in {path, real}:
            self._edges[place] = self._edges.get(place, 0) | bits

    def granted(self, path: str) -> int:
        """Return the rights in force at `path` so far."""
        table = effective_rights(tuple(self._rule(place, entry) for place, entry in self._entries.items()))
        return _nearest(table, path)

    def rules(self) -> tuple[FsRule, ...]:
        """Return one rule a path, sorted by path."""
        named = effective_rights(
            tuple(self._rule(path, entry) for path, entry in self._entries.items() if not entry.implied)
        )
        result = {path: self._rule(path, entry) for path, entry in self._entries.items()}
        for path, bits in self._edges.items():
            deny = bits & ~_nearest(named, path)
            entry = self._entries.get(path)
            if entry is not None:
                deny &= ~entry.allow
            if not deny:
                continue
            old = result.get(path) or FsRule(path=path, origin="import")
            result[path] = FsRule(
                path=path, allow=old.allow, deny=int(old.deny | deny), text=old.text, origin=old.origin
            )
        return tuple(result[path] for path in sorted(result))

    @staticmethod
    def _rule(path: str, entry: _Entry) -> FsRule:
        text = " + ".join(entry.texts)
        return FsRule(path=path, allow=int(entry.allow), deny=int(entry.deny), text=text, origin=entry.origin)


def _nearest(table: dict[str, int], path: str) -> int:
    while path not in table:
        if path in ("", "/"):
            return 0
        path = path[: path.rfind("/")] or "/"
    return table[path]
