"""One plain request and its answer: read by h11 on one side, written anew by h11 on the other, never passed through."""

from __future__ import annotations

import asyncio
from typing import Protocol

import h11

from .credentials import MOST_SIGNED_BYTES, Credentials, Headers, Unsignable
from .meter import Meter

#: Without a byte from the host for so long, the exchange ends (seconds).
IDLE_S = 120.0
#: A host's connection that rested for longer is not used again: hosts close them after some seconds.
_KEPT_S = 4.0
#: Of one hop, not of the exchange (RFC 9110, 7.6.1), and what each side of the proxy writes itself.
_OF_ONE_HOP = frozenset(
    (b"connection", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"proxy-authentication-info",
     b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"expect")
)  # fmt: skip
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Reader(Protocol):
    """What is read of a guest: its connection, or what is inside of a tunnel."""

    async def read(self, most: int, /) -> bytes:
        """Return what has come; nothing at the end."""
        ...


class Writer(Protocol):
    """The other way."""

    def write(self, data: bytes, /) -> None:
        """Send data."""
        ...

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        ...

    async def drain(self) -> None:
        """Wait for room."""
        ...


class Asked(Protocol):
    """The guest's side: its connection and what comes from it."""

    http: h11.Connection
    writer: Writer

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

    def __init__(self, place: tuple[str, int], stream: Stream) -> None:
        self.place, self.reader, self.writer = place, *stream
        self.http = h11.Connection(h11.CLIENT)
        self._used = asyncio.get_running_loop().time()

    def serves(self, place: tuple[str, int]) -> bool:
        """Tell whether another request can be sent: for that place, and not to a host that may just close."""
        rested = asyncio.get_running_loop().time() - self._used
        whole = self.http.our_state is h11.IDLE and not self.reader.at_eof() and not self.writer.is_closing()
        return whole and self.place == place and rested < _KEPT_S

    def next_cycle(self) -> None:
        """Be ready for another exchange where the host keeps the connection; else close it."""
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self._used = asyncio.get_running_loop().time()
        else:
            self.close()

    def close(self) -> None:
        """End it."""
        self.writer.close()


async def forward(guest: Asked, request: h11.Request, target: bytes, up: Upstream, credentials: Credentials) -> bool:
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
        up.writer.write(head)
        body = asyncio.ensure_future(_send_body(guest, up, known))
        answer = asyncio.ensure_future(_answer(guest, up, credentials))
        try:
            await asyncio.wait((body, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                body.result()  # or why there is no more of it
            await answer
            whole = body.done() and body.exception() is None
        finally:
            for one in (body, answer):
                one.cancel()
            await asyncio.gather(body, answer, return_exceptions=True)
    finally:
        if whole:
            up.next_cycle()
        else:
            up.close()
    return whole and guest.http.our_state is h11.DONE and guest.http.their_state is h11.DONE


async def _whole_body(guest: Asked) -> bytes:
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


async def _send_body(guest: Asked, up: Upstream, known: bytes | None = None) -> None:
    """Send a request's body as it comes, or what is `known` of it: all."""
    host, writer = up.http, up.writer
    if known is not None:
        writer.write((host.send(h11.Data(data=known)) or b"") + (host.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        return
    while True:
        event = await guest.next_event()
        if isinstance(event, h11.Data):
            guest.meter.sent(len(event.data))
            writer.write(host.send(h11.Data(data=event.data)) or b"")
        elif isinstance(event, h11.EndOfMessage):
            writer.write(host.send(h11.EndOfMessage()) or b"")  # its trailers are of one hop
            await writer.drain()
            return
        else:
            raise ConnectionAbortedError("the guest has gone")
        await writer.drain()


async def _answer(guest: Asked, up: Upstream, credentials: Credentials) -> None:
    host = up.http
    while True:
        event = host.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout(IDLE_S):
                host.receive_data(await up.reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            dropped = _OF_ONE_HOP | (_FRAMING if chunked else frozenset())
            headers = _kept(event.headers.raw_items(), dropped)
            headers, reason = credentials.out_of(event, headers)
            answer = h11.Response(status_code=event.status_code, headers=headers, reason=reason)
            written = guest.http.send(answer) or b""
            guest.meter.received(len(written))
            guest.writer.write(written)
        elif isinstance(event, h11.Data):
            guest.meter.received(len(event.data))
            guest.writer.write(guest.http.send(h11.Data(data=credentials.hider.more(event.data))) or b"")
            await guest.writer.drain()
        elif isinstance(event, h11.EndOfMessage):
            guest.writer.write(guest.http.send(h11.Data(data=credentials.hider.rest())) or b"")
            guest.writer.write(guest.http.send(h11.EndOfMessage()) or b"")
            await guest.writer.drain()
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise ConnectionAbortedError("the host has gone")
