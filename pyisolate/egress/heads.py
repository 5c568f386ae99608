"""Heads that came before, byte by byte: what h11 read in one, and what was decided and written then, holds again.

A head is remembered only where h11 took exactly these bytes for one. They end in the blank line that ends a head, so
whatever follows them, h11 would read the same again; it is not called. Nothing of a head is read here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import h11
import msgspec

from ..policy import web

#: What ends a head.
END = b"\r\n\r\n"
#: Heads of one sandbox, and of one host's answers; a longer one is not kept (bytes).
MOST_REQUESTS, MOST_ANSWERS, _MOST_BYTES = 32, 4, 4096
_V = TypeVar("_V")


class KnownRequest(msgspec.Struct, frozen=True):
    """A request that was granted: what the host is sent for it, before `body_bytes` of body."""

    request: web.Request
    target: bytes
    onward: bytes
    body_bytes: int


class KnownAnswer(msgspec.Struct, frozen=True):
    """An answer: what the guest is sent for it, before `body_bytes` of body."""

    onward: bytes
    body_bytes: int


class Heads(Generic[_V]):
    """Remembers the last few heads. `place` is what else decides how a head is read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[tuple[Hashable, bytes], _V] = OrderedDict()

    @property
    def any(self) -> bool:
        """Tell whether there are some."""
        return bool(self._known)

    def find(self, data: bytes, place: Hashable = None) -> tuple[_V, bytes] | None:
        """Return what is known of the head that `data` begins with, and what follows it."""
        if not self._known or (end := _end(data)) is None:
            return None
        found = self._known.get((place, data[:end]))
        return None if found is None else (found, data[end:])

    def of(self, place: Hashable = None) -> list[tuple[bytes, _V]]:
        """Return the heads that are known in a place, the oldest first."""
        return [(head, value) for (where, head), value in self._known.items() if where == place]

    def put(self, head: bytes, value: _V, place: Hashable = None) -> None:
        """Remember one."""
        self._known[(place, head)] = value
        if len(self._known) > self._most:
            self._known.popitem(last=False)


def read_head(http: h11.Connection, data: bytes) -> tuple[object, bytes | None]:
    """Give h11 what came; return its next event, and the head where it is just what `data` begins with.

    Raises h11.RemoteProtocolError.
    """
    end = None if http.trailing_data[0] else _end(data)
    if end is None:
        http.receive_data(data)
        return http.next_event(), None
    http.receive_data(data[:end])
    event = http.next_event()
    head = None if http.trailing_data[0] else data[:end]
    if len(data) > end:  # h11 takes no bytes for the end of the connection
        http.receive_data(data[end:])
    return event, head


def _end(data: bytes) -> int | None:
    """Return where the first blank line ends, if that is early enough."""
    found = data.find(END, 0, _MOST_BYTES)
    return None if found < 0 else found + len(END)


def body_bytes(event: h11.Request | h11.Response) -> int | None:
    """Return the body's length that a head states, 0 where it states none; None where no number says it."""
    stated = {
        name: value for name, value in event.headers if name in (b"content-length", b"transfer-encoding", b"expect")
    }
    if stated.keys() - {b"content-length"}:
        return None
    return int(stated.get(b"content-length", b"0"))
