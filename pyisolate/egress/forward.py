"""One plain request and its answer: heads are read by h11 on one side, and written anew for the other.

A body whose length a known head states is passed on as it is; any other is read and written anew by h11, too.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Protocol

import h11

from . import heads
from .credentials import MOST_SIGNED_BYTES, Credentials, Encoded, Headers, Unsignable
from .heads import MOST_ANSWERS, Heads, KnownAnswer
from .hiding import Hider
from .meter import Meter
from .streams import Side
from .work import timed

#: Without a byte from the host for so long, the exchange ends (seconds).
IDLE_S = 120.0
#: Parts of a body after which others have their turn: many chunks of a byte may come at once.
_PIECES = 64
#: A host's connection that rested for longer is not used again: hosts close them after some seconds.
KEPT_S = 4.0
#: Of one hop, not of the exchange (RFC 9110, 7.6.1), and what each side of the proxy writes itself.
_OF_ONE_HOP = frozenset(
    (b"connection", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"proxy-authentication-info",
     b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"expect")
)  # fmt: skip
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class _HostGone(ConnectionAbortedError):
    """The host takes no more of a request."""


class GuestSide(Protocol):
    """The guest's side: its connection and what comes from it."""

    http: h11.Connection
    side: Side
    #: a part of an answer was sent that `http` knows nothing of
    begun: bool

    @property
    def meter(self) -> Meter:
        """What its sandbox has used."""
        ...

    async def next_event(self) -> object:
        """Return what the guest sends next, as h11 reads it."""
        ...


def _kept(headers: Headers, without: frozenset[bytes]) -> Headers:
    """Return the headers that go on, as they were spelt: not those of one hop, nor what Connection names as such."""
    named = {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    }
    dropped = without | (named - _FRAMING - {b"host"})
    return [(name, value) for name, value in headers if name.lower() not in dropped]


class Upstream:
    """A connection to a host, which carries one exchange after the other."""

    def __init__(self, place: tuple[str, int], side: Side) -> None:
        self.place, self.side = place, side
        self.http = h11.Connection(h11.CLIENT)
        #: answers that came before, and the last request's head as it was sent
        self.answers: Heads[KnownAnswer] = Heads(MOST_ANSWERS)
        self.sent = b""
        self._used = asyncio.get_running_loop().time()

    def serves(self, place: tuple[str, int]) -> bool:
        """Tell whether another request can be sent: for that place, and not to a host that may just close."""
        rested = asyncio.get_running_loop().time() - self._used
        whole = self.http.our_state is h11.IDLE and self.side.rests() and not self.side.is_closing()
        return whole and self.place == place and rested < KEPT_S

    def rested(self, seconds: float) -> None:
        """Know when it was last used, by others."""
        self._used = asyncio.get_running_loop().time() - seconds

    def next_cycle(self) -> None:
        """Be ready for another exchange where the host keeps the connection; else close it."""
        if self.http.our_state is h11.IDLE:  # `repeat` did without
            self._used = asyncio.get_running_loop().time()
        elif _is_done(self.http) and not self.http.trailing_data[0]:
            self.http.start_next_cycle()
            self._used = asyncio.get_running_loop().time()
        else:
            self.close()

    def close(self) -> None:
        """End it."""
        self.side.close()


async def forward(
    guest: GuestSide, request: h11.Request, target: bytes, up: Upstream, credentials: Credentials
) -> bool:
    """Carry one exchange; return whether the guest's connection can carry another.

    Raises OSError, ProtocolError, OverLimit, Encoded, Unsignable.
    """
    whole = False
    try:
        headers = _kept(request.headers.raw_items(), _OF_ONE_HOP)
        known = await _whole_body(guest) if credentials.needs_body(headers) else None
        target, headers = credentials.into(request.method, target, headers, known or b"")
        head = up.http.send(h11.Request(method=request.method, target=target, headers=headers)) or b""
        guest.meter.sent(len(head))
        up.sent = head
        up.side.write(head)
        if known is None and heads.body_bytes(request) == 0:
            await _send_body(guest, up)
            await _answer(guest, up, credentials, request.method)
            whole = True
        else:
            whole = await _both_ways(guest, up, credentials, request.method, known)
    finally:
        if whole:
            up.next_cycle()
        else:
            up.close()
    return whole and _is_done(guest.http)


async def _both_ways(
    guest: GuestSide, up: Upstream, credentials: Credentials, method: bytes, known: bytes | None
) -> bool:
    """Carry a body and its answer, which may begin before; tell whether all of the body was sent.

    A host that closes without having read all may have answered before (413): its answer is what counts.
    """
    took = guest.meter.work.add
    up.side.inlet.sending = True
    body = asyncio.ensure_future(timed(_send_body(guest, up, known), took))
    answer = asyncio.ensure_future(timed(_answer(guest, up, credentials, method), took))
    try:
        await asyncio.wait((body, answer), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and not isinstance(body.exception(), _HostGone):
            body.result()  # or why there is no more of it
            up.side.inlet.sending = False
        await answer
        return body.done() and body.exception() is None
    finally:
        up.side.inlet.sending = False
        for one in (body, answer):
            one.cancel()
        await asyncio.gather(body, answer, return_exceptions=True)


def _is_done(http: h11.Connection) -> bool:
    """Tell whether an exchange has ended after which there can be another."""
    return http.our_state is h11.DONE and http.their_state is h11.DONE


async def repeat(guest: GuestSide, known: heads.KnownRequest, came: bytes, up: Upstream, hider: Hider) -> bool:
    """Carry an exchange whose head is `known`, from `came`, the whole request; else as `forward`."""
    try:
        data = known.onward + (came[-known.body_bytes :] if known.body_bytes else b"")
        guest.meter.sent(len(data))
        up.side.write(data)
        async with asyncio.timeout(IDLE_S):
            data = await up.side.read(1 << 16)
    except BaseException:
        up.close()
        raise
    return await answer_known(guest, known, came, up, data, hider)


async def answer_known(
    guest: GuestSide, known: heads.KnownRequest, came: bytes, up: Upstream, data: bytes, hider: Hider
) -> bool:
    """Carry the answer to a known request that was sent, which begins with `data`; else as `forward`."""
    whole = False
    try:
        found = up.answers.find(data) or read_apart(known.request.method, data, up.answers, hider)
        if found is not None:
            whole = await _pass_on(guest, up, *found, hider)
            return True
        _tell_h11(guest.http, known, came, up.http)
        await _answer(guest, up, Credentials((), hider), known.request.method.encode(), data)
        whole = True
        return _is_done(guest.http)
    finally:
        if whole:
            up.next_cycle()
        else:
            up.close()


def read_apart(method: str, data: bytes, answers: Heads[KnownAnswer], hider: Hider) -> tuple[KnownAnswer, bytes] | None:
    """Have h11 read an answer that is all of `data`, for a connection of its own; return what `answers.find` would.

    None where it is not whole, or not the last word of h11's: an end of the connection, a length that no number states.
    """
    host = h11.Connection(h11.CLIENT)
    host.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    host.send(h11.EndOfMessage())
    try:
        answer, head = heads.read_head(host, data)
        if head is None or not isinstance(answer, h11.Response):
            return None
        while isinstance(event := host.next_event(), h11.Data):
            pass
    except h11.RemoteProtocolError:
        return None  # who reads it for both connections refuses it
    body = data[len(head) :]
    kept = isinstance(event, h11.EndOfMessage) and _is_done(host) and not host.trailing_data[0]
    if not kept or heads.body_bytes(answer) != len(body):
        return None
    try:
        headers, reason = Credentials((), hider).out_of(answer, _kept(answer.headers.raw_items(), _OF_ONE_HOP))
    except Encoded:
        return None
    lines = [b"HTTP/1.1 %d %b" % (answer.status_code, reason), *(name + b": " + value for name, value in headers)]
    found = KnownAnswer(b"\r\n".join(lines) + heads.END, len(body))
    answers.put(head, found)
    return found, body


def _tell_h11(guest: h11.Connection, known: heads.KnownRequest, came: bytes, host: h11.Connection) -> None:
    """Have both sides know of a request that was sent without them: its answer is one that they must read."""
    guest.receive_data(came)
    while not isinstance(event := guest.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Request):
            headers = _kept(event.headers.raw_items(), _OF_ONE_HOP)
            host.send(h11.Request(method=event.method, target=known.target, headers=headers))
        elif isinstance(event, h11.Data):
            host.send(h11.Data(data=event.data))
        else:
            raise ConnectionAbortedError("a known request is none")
    host.send(h11.EndOfMessage())


async def _pass_on(guest: GuestSide, up: Upstream, known: KnownAnswer, data: bytes, hider: Hider) -> bool:
    """Send an answer on; False where the host sent more than it stated."""
    left, more, before = known.body_bytes, data, known.onward
    while True:
        piece = before + hider.more(more[:left]) + (hider.end() if left <= len(more) else b"")
        guest.meter.received(len(piece))
        guest.begun = True
        guest.side.write(piece)
        await guest.side.drain()
        before, left = b"", left - len(more)
        if left <= 0:
            break
        async with asyncio.timeout(IDLE_S):
            if not (more := await up.side.read(1 << 16)):
                raise ConnectionAbortedError("the host has gone")
    guest.begun = False
    return left == 0


async def _whole_body(guest: GuestSide) -> bytes:
    """Return a request's body. Raises Unsignable for a large one."""
    body = bytearray()
    while isinstance(event := await guest.next_event(), h11.Data):
        guest.meter.sent(len(event.data))
        body += event.data
        if len(body) > MOST_SIGNED_BYTES:
            limit = f"{MOST_SIGNED_BYTES >> 20} MiB"
            raise Unsignable(f"a body over {limit} can be signed only where its client states x-amz-content-sha256")
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionAbortedError("the guest has gone")
    return bytes(body)


async def _send_body(guest: GuestSide, up: Upstream, known: bytes | None = None) -> None:
    """Send a request's body as it comes, or what is `known` of it: all."""
    host, side = up.http, up.side
    if known is not None:
        side.write((host.send(h11.Data(data=known)) or b"") + (host.send(h11.EndOfMessage()) or b""))
        await _drain(side)
        return
    for pieces in itertools.count(1):
        if pieces % _PIECES == 0:
            await asyncio.sleep(0)
        event = await guest.next_event()
        if isinstance(event, h11.Data):
            guest.meter.sent(len(event.data))
            side.write(host.send(h11.Data(data=event.data)) or b"")
        elif isinstance(event, h11.EndOfMessage):
            side.write(host.send(h11.EndOfMessage()) or b"")  # its trailers are of one hop
            await _drain(side)
            return
        else:
            raise ConnectionAbortedError("the guest has gone")
        await _drain(side)


async def _drain(host: Side) -> None:
    try:
        await host.drain()
    except OSError as error:
        raise _HostGone(str(error)) from None


async def _answer(
    guest: GuestSide, up: Upstream, credentials: Credentials, method: bytes, came: bytes | None = None
) -> None:
    """Read an answer, of which `came` may be the beginning, and write it anew.

    One to HEAD is not remembered: its head speaks of a body that it has not.
    """
    host = up.http
    head, written, stated, got = None, b"", None, 0
    event: object = h11.NEED_DATA
    for pieces in itertools.count(1):
        if pieces % _PIECES == 0:
            await asyncio.sleep(0)
        if event is h11.NEED_DATA:
            if came is None:
                async with asyncio.timeout(IDLE_S):
                    came = await up.side.read(1 << 16)
            event, seen = heads.read_head(host, came)
            came = None
            head = seen if isinstance(event, h11.Response) else head
            continue
        if isinstance(event, h11.Response):
            stated = heads.body_bytes(event)
            written = _send_head(guest, event, credentials)
        elif isinstance(event, h11.Data):
            got += len(event.data)
            guest.meter.received(len(event.data))
            guest.side.write(guest.http.send(h11.Data(data=credentials.hider.more(event.data))) or b"")
            await guest.side.drain()
        elif isinstance(event, h11.EndOfMessage):
            guest.side.write(guest.http.send(h11.Data(data=credentials.hider.end())) or b"")
            guest.side.write(guest.http.send(h11.EndOfMessage()) or b"")
            await guest.side.drain()
            kept = _is_done(guest.http) and _is_done(host) and method != b"HEAD"
            if head is not None and stated == got and kept:
                up.answers.put(head, KnownAnswer(written, got))
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise ConnectionAbortedError("the host has gone")
        event = host.next_event()


def _send_head(guest: GuestSide, event: h11.Response, credentials: Credentials) -> bytes:
    chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
    dropped = _OF_ONE_HOP | (_FRAMING if chunked else frozenset())
    headers = _kept(event.headers.raw_items(), dropped)
    headers, reason = credentials.out_of(event, headers)
    answer = h11.Response(status_code=event.status_code, headers=headers, reason=reason)
    written = guest.http.send(answer) or b""
    guest.meter.received(len(written))
    guest.side.write(written)
    return written
