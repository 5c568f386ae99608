"""Threads on which hooks ask nothing: there the runtime itself works."""

from __future__ import annotations

from _thread import get_ident


class Suspended:
    """Adds the calling thread to those that are asked nothing, for as long as the context lasts.

    The context is False where the thread was one of them already. No generator, which `contextlib` would drive with
    builtins that a guest may have replaced.
    """

    __slots__ = ("_added", "_busy", "_ident")

    def __init__(self, busy: set[int]) -> None:
        self._busy, self._ident = busy, get_ident()
        self._added = False

    def __enter__(self) -> bool:
        self._added = self._ident not in self._busy
        self._busy.add(self._ident)
        return self._added

    def __exit__(self, *_: object) -> None:
        if self._added:
            self._busy.discard(self._ident)
