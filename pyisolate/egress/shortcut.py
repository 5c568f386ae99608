"""Exchanges whose request and answer came before, byte by byte: carried as their bytes come, and no task is woken.

What is known, counted, bounded and answered is what it is without (`forward.repeat`). At anything else the task that
waits is given what has come, and reads it as ever. After some exchanges of which all was known it ends: a thread can
have the next ones (`handed.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from ..policy.web import Request
from .forward import IDLE_S, Upstream, read_apart
from .heads import KnownRequest
from .hiding import Hider
from .meter import Meter, OverLimit
from .streams import Side
from .turns import Turns

#: A larger answer is carried by the task, which waits for its guest to read.
_MOST_BYTES = 1 << 16
#: After so many exchanges with known heads on both sides the next ones are likely to be such.
_SETTLED = 3


class Begun(NamedTuple):
    """A known request that was sent, its bytes, and how its answer begins, which is not known."""

    known: KnownRequest
    came: bytes
    answer: bytes


#: Finds what is known of a whole request.
Find = Callable[[bytes], KnownRequest | None]


class Shortcut:
    """Carries what is known between a guest and a host that rests, until something else comes."""

    def __init__(
        self,
        side: Side,
        up: Upstream,
        meter: Meter,
        find: Find,
        hider: Hider,
        turns: Turns,
        *,
        settles: bool = False,
    ) -> None:
        """`settles`: end where the next exchanges are likely to be known ones, too."""
        self._hider, self._turns, self._settles = hider, turns, settles
        #: a request waits for its turn; the last one that came
        self._waits, self._turn = False, 0
        self._side, self._up, self._meter, self._find = side, up, meter, find
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[bytes | Begun | None] = self._loop.create_future()
        #: the request that was sent, and how much of its known answer is still to come; 0: none of it came
        self._flight: tuple[KnownRequest, bytes] | None = None
        self._left = 0
        self._used = self._loop.time()
        #: a part of an answer was sent and the rest was not
        self.begun = False
        #: it ended for nothing but that exchanges of which all was known followed each other: how many did
        self.settled = False
        self._in_row = 0

    @property
    def asked(self) -> Request | None:
        """The request whose answer, or the rest of it, is still to come."""
        return None if self._flight is None else self._flight[0].request

    async def run(self, head_s: float) -> bytes | Begun | None:
        """Return what else came: bytes of a request, how an unknown answer begins; None where there is more to read.

        Raises OverLimit, and TimeoutError where nothing comes for `head_s`, or no answer for as long as hosts have.
        """
        self._timer = self._loop.call_later(head_s, self._look, head_s)
        timed = self._meter.work.timed
        guest, host = self._side.inlet, self._up.side.inlet
        guest.taker, host.taker = timed(self._from_guest), timed(self._from_host)
        try:
            return await self._ended
        finally:
            guest.taker = host.taker = None
            self._timer.cancel()

    def _look(self, head_s: float) -> None:
        left = self._used + (head_s if self._flight is None else IDLE_S) - self._loop.time()
        if left <= 0:
            self._fail(TimeoutError("nothing came"))
        elif not self._ended.done():
            self._timer = self._loop.call_later(min(left, head_s), self._look, head_s)

    def _end(self, result: bytes | Begun | None) -> None:
        if not self._ended.done():
            self._ended.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _from_guest(self, data: bytes) -> bool:
        if self._waits or self._flight is not None or self._ended.done():
            return False  # it is read after the answer
        if not data:
            self._end(None)
            return False
        asked = self._side.plain(data)
        if asked is None:
            self._end(None)
        elif asked:
            self._waits = True
            self._turns.run(lambda: self._ask(asked))
        return True

    def _ask(self, asked: bytes) -> None:
        self._waits, self._turn = False, self._turns.last
        if self._ended.done():  # its connection ends
            return
        known = self._find(asked)
        place = None if known is None else (known.request.host, known.request.port)
        if known is None or place is None or not self._up.serves(place) or self._side.waits_to_write():
            self._end(asked)
            return
        sent = known.onward + (asked[-known.body_bytes :] if known.body_bytes else b"")
        try:
            self._meter.request()
            self._meter.sent(len(sent))
        except OverLimit as over:
            self._fail(over)
            return
        self._flight, self._left, self._used = (known, asked), 0, self._loop.time()
        self._hider = self._hider.fresh()
        self._up.side.write(sent)

    def _from_host(self, data: bytes) -> bool:
        if self._ended.done():
            return False
        if data:
            inside = self._up.side.plain(data)
            if inside == b"":
                return True  # a part of a record, or of what TLS says for itself
            data = inside or b""  # what cannot be read is the end
        if self._flight is None:
            self._up.close()  # it has ended, or speaks without being asked
            return True
        self._turns.answered(self._turn)
        if self._left:
            self._pass_on(b"", data)
            return True
        known, came = self._flight
        found = self._up.answers.find(data)
        whole = found is not None and (len(found[1]) >= found[0].body_bytes or not self._hider.hidden)
        self._in_row = self._in_row + 1 if whole else 0
        if found is None and data and len(data) <= _MOST_BYTES:
            found = read_apart(known.request.method, data, self._up.answers, self._hider)
        if found is None or found[0].body_bytes > _MOST_BYTES:
            self._end(Begun(known, came, data))
        else:
            self._left = found[0].body_bytes
            self._pass_on(found[0].onward, found[1])
        return True

    def _pass_on(self, head: bytes, body: bytes) -> None:
        if not head and not body:  # the host ended in the middle
            self._fail(ConnectionAbortedError("the host has gone"))
            return
        piece = head + self._hider.more(body[: self._left])
        piece += self._hider.end() if self._left <= len(body) else b""
        try:
            self._meter.received(len(piece))
        except OverLimit as over:
            self._fail(over)
            return
        self._side.write(piece)
        self._used = self._loop.time()
        self._left -= len(body)
        self.begun = self._left > 0
        if self.begun:
            if not self._up.side.rests():  # TLS ended after this part, and no callback follows
                self._fail(ConnectionAbortedError("the host has gone"))
            return
        self._flight = None
        if self._left:  # more than it stated
            self._up.close()
        self._left = 0
        self._up.next_cycle()
        self.settled = self._settles and self._in_row >= _SETTLED
        if self.settled or not self._side.rests():
            self._end(None)
