"""Tunnels, and known exchanges, that C carries between two sockets: bytes are counted and not read.

A thread of its own does. Exchanges over TLS are carried by the thread of a loop, while that waits (`turn`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ._native import ffi, lib

if TYPE_CHECKING:
    import ssl

SENT, RECEIVED, REQUESTS = lib.TUNNELS_SENT, lib.TUNNELS_RECEIVED, lib.TUNNELS_REQUESTS
#: How a tunnel ended, besides -errno.
DONE, IDLE, OVER_SENT, OVER_RECEIVED, OVER_REQUESTS = (
    lib.TUNNELS_DONE,
    lib.TUNNELS_IDLE,
    lib.TUNNELS_OVER_SENT,
    lib.TUNNELS_OVER_RECEIVED,
    lib.TUNNELS_OVER_REQUESTS,
)
#: What ended known exchanges besides: another request, another answer, the guest's end, a host that rested.
BY_REQUEST, BY_ANSWER, BY_GUEST, BY_HOST = (
    lib.EXCHANGES_REQUEST,
    lib.EXCHANGES_ANSWER,
    lib.EXCHANGES_GUEST,
    lib.EXCHANGES_HOST,
)
#: No longer head or body is carried as known, and no head goes on in the place of another that is more than twice that.
MOST_HEAD_BYTES, MOST_BODY_BYTES = lib.EXCHANGES_HEAD_BYTES, lib.EXCHANGES_BODY_BYTES
_UNBOUNDED = (1 << 64) - 1
#: A longer wait is cut: its caller waits again.
_MOST_MS = 1 << 30


class Known(NamedTuple):
    """A head that is known, and what goes on in its place, before so many bytes of body."""

    head: bytes
    onward: bytes
    body_bytes: int


class Tls(NamedTuple):
    """TLS of one side: nothing of it is read or written by others while its exchanges are carried."""

    engine: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class Ended(NamedTuple):
    """How a tunnel ended, and for how long nothing had gone on then.

    Of exchanges: the request that waits for its answer, and whether that has begun; `given`: what came last, and is not
    known; `tls_ended`: the guest's TLS, the host's has met its end, or what it cannot read.
    """

    number: int
    result: int
    asked: int | None
    begun: bool
    rested_s: float
    body: bytes
    given: bytes
    tls_ended: tuple[bool, bool]


class Counts:
    """Bytes either way and requests of one sandbox, counted by Python and tunnels alike, and what its tunnels took.

    Thread-safe.
    """

    def __init__(self) -> None:
        self.counts = ffi.new("struct tunnels_meter *")
        self.limit(None, None, None)

    def limit(self, sent: int | None, received: int | None, requests: int | None) -> None:
        """Bound what may go either way, with all that went before."""
        for what, most in ((SENT, sent), (RECEIVED, received), (REQUESTS, requests)):
            self.counts.most[what] = _UNBOUNDED if most is None else most

    def count(self, what: int, count: int) -> bool:
        """Count what is about to go on; False where that is too much."""
        return bool(lib.sides_count(self.counts, what, count))

    def carried(self, what: int) -> int:
        """Return how many went on."""
        return int(self.counts.carried[what])

    def spent_s(self) -> float:
        """Return how much processor time its tunnels took."""
        return float(self.counts.spent_ns) / 1e9

    def renew(self) -> None:
        """Have what its tunnels and exchanges carry end here: from now on, nothing that comes in one goes on."""
        lib.sides_renew(self.counts)


class Tunnels:
    """All tunnels that one thread carries. For one thread of Python at a time."""

    def __init__(self, idle_s: int, others: int | None = None) -> None:
        """`idle_s`: a tunnel without a byte for so long ends. Raises OSError.

        `others`: a descriptor. There is no thread then: `turn` carries, and waits for that descriptor as well.
        """
        if others is not None:
            import ssl  # here: each first start paid 5 ms for it, and a loop alone reads TLS

            if (result := lib.over_tls_prepare(id(ssl.SSLWantReadError))) < 0:
                raise OSError(-result, os.strerror(-result), "tunnels")
        self._all = lib.tunnels_start(idle_s, -1 if others is None else others)
        if self._all == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "tunnels")
        self._last = 0
        #: a tunnel, and what is kept for as long as it is carried: its meter, TLS
        self._open: dict[int, tuple[object, ...]] = {}
        self._end = ffi.new("struct tunnels_end *")
        self._given = ffi.new("unsigned char[]", MOST_BODY_BYTES + lib.EXCHANGES_GIVEN_BYTES)

    def fileno(self) -> int:
        """Return a descriptor that is readable once a tunnel has ended."""
        return int(lib.tunnels_ended_fd(self._all))

    @property
    def any(self) -> bool:
        """Tell whether there are some that have not ended, or whose end was not asked for."""
        return bool(self._open)

    def turn(self, wait_s: float | None) -> bool:
        """Carry for so long at most, None: for ever; tell whether what else is watched is ready before."""
        return bool(lib.tunnels_turn(self._all, -1 if wait_s is None else min(_MOST_MS, math.ceil(wait_s * 1000))))

    def add(self, guest: int, host: int, counts: Counts) -> int:
        """Carry between two sockets and return the tunnel's number. Its end closes them. Raises OSError."""
        self._last += 1
        return self._opened(
            lib.tunnels_add(self._all, self._last, guest, host, counts.counts, ffi.NULL, ffi.NULL), counts
        )

    def exchange(
        self,
        guest: int,
        host: int,
        counts: Counts,
        requests: Sequence[Known],
        answers: Sequence[Known],
        kept_ms: int,
        tls: tuple[Tls | None, Tls | None] = (None, None),
        hidden: Sequence[bytes] = (),
    ) -> int:
        """Carry known exchanges between two sockets and return their number. They stay open. Raises OSError.

        `kept_ms`: a host that rested for longer is asked nothing more. `tls`: the guest's and the host's; only `turn`
        carries over it. `hidden`: an answer whose body shows one of these, or does not come whole, is not known.
        """
        self._last += 1
        kept: list[object] = []
        exchange = lib.exchanges_new(*_known(requests, kept), *_known(answers, kept), kept_ms, *_hidden(hidden, kept))
        if exchange == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "known exchanges")
        sides = ffi.new("struct tunnels_tls[2]", [tuple(map(id, one or ())) for one in tls])
        tunnel = lib.tunnels_add(self._all, self._last, guest, host, counts.counts, exchange, sides)
        return self._opened(tunnel, counts, *tls)

    def _opened(self, tunnel: object, *kept: object) -> int:
        if tunnel == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "tunnel")
        self._open[self._last] = (tunnel, *kept)
        return self._last

    def expire(self, number: int, ask_s: float, answer_s: float) -> float:
        """End exchanges in which nothing went on for so long, by what is to come; return how long they have left."""
        if (known := self._open.get(number)) is None:
            return 0
        return float(lib.tunnels_expire(self._all, known[0], int(ask_s * 1000), int(answer_s * 1000))) / 1000

    def remove(self, number: int) -> None:
        """End a tunnel, if it has not ended by itself."""
        if (known := self._open.pop(number, None)) is not None:
            lib.tunnels_remove(self._all, known[0])

    def ended(self) -> list[Ended]:
        """Return how tunnels have ended by themselves since the last time."""
        found = []
        while lib.tunnels_next_ended(self._all, self._end, self._given):
            end = self._end[0]
            self._open.pop(end.number, None)
            given = bytes(ffi.buffer(self._given, end.body_bytes + end.given_bytes))
            asked = None if end.asked < 0 else int(end.asked)
            parts = (given[: end.body_bytes], given[end.body_bytes :])
            tls_ended = (bool(end.tls_ended & 1), bool(end.tls_ended & 2))
            how = (int(end.number), int(end.result), asked, bool(end.begun), end.rested_ms / 1000)
            found.append(Ended(*how, *parts, tls_ended))
        return found

    def close(self) -> None:
        """End all of them, and the thread. Nothing else may be called then."""
        lib.tunnels_stop(self._all)
        self._open.clear()


def _hidden(texts: Sequence[bytes], kept: list[object]) -> tuple[object, int]:
    """Return an array of texts, and its length. `kept` holds their bytes."""
    array = ffi.new("struct exchanges_hidden[]", len(texts))
    for made, text in zip(array, texts, strict=True):
        kept.append(buffer := ffi.from_buffer("unsigned char[]", text))
        made.text, made.bytes = buffer, len(text)
    return array, len(texts)


def _known(heads: Sequence[Known], kept: list[object]) -> tuple[object, int]:
    """Return an array of them, and its length. `kept` holds its bytes."""
    array = ffi.new("struct exchanges_known[]", len(heads))
    for made, one in zip(array, heads, strict=True):
        buffers = [ffi.from_buffer("unsigned char[]", data) for data in (one.head, one.onward)]
        made.head, made.onward = buffers
        made.head_bytes, made.onward_bytes, made.body_bytes = len(one.head), len(one.onward), one.body_bytes
        kept += buffers
    return array, len(heads)
