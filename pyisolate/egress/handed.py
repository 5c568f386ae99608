"""Exchanges of which all is known, carried in C, until something else comes: no callback of this loop's is called.

The tunnels' thread carries those without TLS, and this loop's own thread while it waits (`waiting.py`) those in opened
tunnels. C compares heads byte by byte with those that were read and judged here, counts and bounds as `shortcut.py`
does, and gives the connection back with what it does not know, or with an answer in which a credential is to be
covered. Where another policy comes into force it carries nothing more, at once (`Tenants.dismiss`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from ..native.tunnels import (
    BY_ANSWER,
    BY_GUEST,
    BY_HOST,
    BY_REQUEST,
    IDLE,
    MOST_BODY_BYTES,
    MOST_HEAD_BYTES,
    Ended,
    Known,
    Tunnels,
)
from ..policy.web import Request
from .forward import IDLE_S, KEPT_S, Upstream
from .heads import KnownAnswer, KnownRequest
from .hiding import Hider
from .meter import Meter
from .shortcut import Begun
from .streams import Side
from .tunnel import Carrier, raise_for

#: What is copied for a connection, the last that came (bytes).
_MOST_BYTES = 16 << 10
_V = TypeVar("_V", KnownRequest, KnownAnswer)


class Handed:
    """A guest's connection and its host's, both at rest, while C has them."""

    def __init__(
        self,
        carrier: Carrier,
        side: Side,
        up: Upstream,
        meter: Meter,
        requests: Sequence[tuple[bytes, KnownRequest]],
        hider: Hider,
    ) -> None:
        """`requests`: what was granted to this sandbox, with the heads that it came with.

        `hider`: covers its credentials.
        """
        self._hidden = hider.hidden
        self._carrier, self._up, self._meter, self._side = carrier, up, meter, side
        here = [(head, one) for head, one in requests if (one.request.host, one.request.port) == up.place]
        self._requests = _copied(here)
        #: the request whose answer, or the rest of it, is still to come; whether it has begun
        self.asked: Request | None = None
        self.begun = False

    async def run(self, head_s: float) -> bytes | Begun | None:
        """Return what else came, as `Shortcut.run` does, and raise what that raises."""
        sides = (self._side, self._up.side)
        if not (self._requests and self._side.rests()) or not self._carrier.takes(*sides):
            return None
        if not self._up.serves(self._up.place) or any(_is_busy(one) for one in sides):
            return None
        transports = [one.below.transport for one in sides]
        for one in transports:
            one.pause_reading()
        try:
            tunnels = self._carrier.between(*sides)
            number = self._begin(tunnels, *(one.get_extra_info("socket").fileno() for one in transports))
        except OSError:  # no memory, no descriptor: it goes on here
            number = None
        try:
            return None if number is None else self._given_back(await self._end(tunnels, number, head_s))
        finally:
            for one in transports:
                one.resume_reading()

    def _begin(self, tunnels: Tunnels, guest: int, host: int) -> int:
        requests = [Known(head, one.onward, one.body_bytes) for head, one in self._requests]
        answers = [Known(head, one.onward, one.body_bytes) for head, one in _copied(self._up.answers.of())]
        tls = (self._side.engine, self._up.side.engine)
        return tunnels.exchange(
            guest, host, self._meter.counts, requests, answers, int(1000 * KEPT_S), tls, self._hidden
        )

    async def _end(self, tunnels: Tunnels, number: int, head_s: float) -> Ended:
        """Return how the thread has ended it, which it does too where nothing comes for as long as each side has."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            self._timer = loop.call_later(min(head_s, tunnels.expire(number, head_s, IDLE_S) or head_s), look)

        with self._carrier.waiting(tunnels, number) as ended:
            self._timer = loop.call_later(head_s, look)
            try:
                return await ended
            finally:
                self._timer.cancel()

    def _given_back(self, end: Ended) -> bytes | Begun | None:
        for side, ended in zip((self._side, self._up.side), end.tls_ended, strict=True):
            side.taken_back(ended=ended)
        if end.asked is not None:
            head, known = self._requests[end.asked]
            self.asked, self.begun = known.request, end.begun
            if end.result == BY_ANSWER:
                return Begun(known, head + end.body, end.given)
        self._up.rested(end.rested_s)
        if end.result == BY_HOST:  # it has ended, or speaks without being asked
            self._up.close()
        if end.result in (BY_HOST, BY_REQUEST, BY_GUEST):
            return end.given or None
        if end.result == IDLE:
            raise TimeoutError("nothing came")
        raise_for(end.result, self._meter)
        raise ConnectionAbortedError("the thread has ended it")


def can_hide(hider: Hider) -> bool:
    """Tell whether C can look for so many credentials."""
    return sum(map(len, hider.hidden)) <= _MOST_BYTES


def _is_busy(side: Side) -> bool:
    return side.waits_to_write() or side.is_closing()


def _copied(heads: Sequence[tuple[bytes, _V]]) -> list[tuple[bytes, _V]]:
    """Return the last ones that the thread takes, up to what is copied for a connection."""
    found, left = [], _MOST_BYTES
    for head, one in reversed(heads):
        left -= len(head) + len(one.onward)
        fits = len(head) <= MOST_HEAD_BYTES and len(one.onward) <= MOST_HEAD_BYTES
        if left >= 0 and fits and one.body_bytes <= MOST_BODY_BYTES:
            found.append((head, one))
    return found
