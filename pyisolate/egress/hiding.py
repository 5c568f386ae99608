"""Credentials do not come back: an answer that echoes one has as many asterisks in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..policy.secrets import Injection


def hide(data: bytes, hidden: Iterable[bytes]) -> bytes:
    """Return `data` with each of `hidden` covered, also where they overlap."""
    covered = bytearray(data)
    for start, end in _places(data, hidden):
        covered[start:end] = b"*" * (end - start)
    return bytes(covered)


def _places(data: bytes, hidden: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    for secret in hidden:
        start = data.find(secret)
        while start >= 0:
            yield start, start + len(secret)
            start = data.find(secret, start + 1)


class Hider:
    """Covers credentials in one answer, which comes in pieces."""

    def __init__(self, injections: Iterable[Injection] = ()) -> None:
        self.hidden = sorted({text.encode() for one in injections for text in (*one.hidden, one.value)})
        #: what came and was not passed on, and how much of its beginning is to be covered
        self._kept, self._covered = b"", 0

    def fresh(self) -> Hider:
        """Return one for another answer."""
        if not self.hidden:
            return self  # it keeps nothing
        other = Hider()
        other.hidden = self.hidden
        return other

    def more(self, data: bytes) -> bytes:
        """Return what can be passed on: all but an end with which a credential begins."""
        if not self.hidden:
            return data
        data = self._kept + data
        places = [(0, self._covered), *_places(data, self.hidden)]
        end = len(data) - max((_begun(data, secret) for secret in self.hidden), default=0)
        covered = bytearray(data[:end])
        for start, stop in places:
            if start < end:
                stop = min(stop, end)
                covered[start:stop] = b"*" * (stop - start)
        # what was covered before goes on where nothing of it is passed on: all that is kept begins a credential again
        past = [self._covered - end, *(stop - end for start, stop in places if start < end)]
        self._kept, self._covered = data[end:], max(0, *past)
        return bytes(covered)

    def end(self) -> bytes:
        """Return what was kept, at the end."""
        kept = hide(self._kept, self.hidden)
        kept, self._kept = b"*" * self._covered + kept[self._covered :], b""
        return kept


def _begun(data: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of `data` a secret begins with."""
    at = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
    while at >= 0 and not secret.startswith(data[at:]):
        at = data.find(secret[:1], at + 1)
    return len(data) - at if at >= 0 else 0
