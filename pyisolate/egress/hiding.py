"""Credentials do not come back: an answer that echoes one has as many asterisks in its place."""

from __future__ import annotations

from collections.abc import Iterable

from ..policy.secrets import Injection


def hide(data: bytes, hidden: Iterable[bytes]) -> bytes:
    """Return `data` with each of `hidden` covered."""
    for secret in hidden:
        data = data.replace(secret, b"*" * len(secret))
    return data


class Hider:
    """Covers credentials in one answer, which comes in pieces."""

    def __init__(self, injections: Iterable[Injection]) -> None:
        found = {text.encode() for one in injections for text in (*one.hidden, one.value)}
        #: the longest first: one may begin with another
        self.hidden = sorted(found, key=len, reverse=True)
        self._kept = b""

    def more(self, data: bytes) -> bytes:
        """Return what can be passed on: all but an end with which a credential begins."""
        known = hide(self._kept + data, self.hidden)
        begun = max((_begun(known, secret) for secret in self.hidden), default=0)
        self._kept = known[len(known) - begun :]
        return known[: len(known) - begun]

    def rest(self) -> bytes:
        """Return what was kept, at the end."""
        kept, self._kept = self._kept, b""
        return kept


def _begun(data: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of `data` a secret begins with."""
    return next((n for n in range(min(len(secret) - 1, len(data)), 0, -1) if data.endswith(secret[:n])), 0)
