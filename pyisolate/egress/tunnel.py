"""A CONNECT: its first bytes must be a TLS handshake that names the host; then bytes go both ways, unread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator

from ..native.tunnels import OVER_RECEIVED, OVER_REQUESTS, OVER_SENT, Ended, Tunnels
from .meter import Meter
from .streams import Side, Stream
from .waiting import Waiting

#: Until the handshake has named its host (seconds).
_HANDSHAKE_S = 30.0
#: A record of TLS: type 22 is a handshake, then version and length (RFC 8446, 5.1). A ClientHello with post-quantum
#: keys has 2 kB, and is in one or two.
_RECORD_HEAD, _HANDSHAKE_RECORD, _MOST_RECORDS = 5, 22, 4
#: Without a byte either way for so long, a tunnel ends (seconds).
IDLE_S = 900
#: A fatal alert, access_denied (RFC 8446, 6).
ACCESS_DENIED = b"\x15\x03\x01\x00\x02\x02\x31"


class NotTheHost(Exception):
    """A tunnel begins with something else than a TLS handshake for its host."""


def name_in(sent: bytes) -> str | None:
    """Return the host that a TLS handshake names. Raises EOFError for a part of one, NotTheHost for anything else.

    OpenSSL reads it, as a server that has no certificate would, and stops at the name.
    """
    found: list[str | None] = []

    def on_name(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        found.append(name)
        return int(ssl.ALERT_DESCRIPTION_ACCESS_DENIED)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = on_name
    incoming = ssl.MemoryBIO()
    incoming.write(sent)
    try:
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        raise EOFError from None
    except ssl.SSLError as error:
        if not found:
            raise NotTheHost(f"the tunnel does not begin with a TLS handshake ({error.reason})") from None
    return found[0] if found else None


def _end_of_records(sent: bytes) -> int:
    """Return where the TLS records end that have begun. Raises NotTheHost for anything else, and for too many."""
    end = records = 0
    while len(sent) >= end + _RECORD_HEAD:
        if sent[end] != _HANDSHAKE_RECORD or records == _MOST_RECORDS:
            raise NotTheHost("the tunnel does not begin with a TLS handshake")
        end += _RECORD_HEAD + int.from_bytes(sent[end + 3 : end + 5])
        records += 1
    return end


async def handshake(reader: asyncio.StreamReader, sent: bytes, host: str) -> bytes:
    """Read until the handshake has named its host and return what was read. Raises NotTheHost."""
    wanted = _RECORD_HEAD
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            while True:
                while len(sent) < wanted:
                    if not (more := await reader.read(1 << 14)):
                        raise NotTheHost("the tunnel ended before a TLS handshake")
                    sent += more
                if (end := _end_of_records(sent)) <= len(sent):
                    with contextlib.suppress(EOFError):
                        name = name_in(sent)
                        break
                    end += _RECORD_HEAD  # the handshake goes on in another record
                wanted = end
    except TimeoutError:
        raise NotTheHost(f"no TLS handshake came in the tunnel within {_HANDSHAKE_S:.0f} s") from None
    if name is None or name.lower().rstrip(".") != host:
        raise NotTheHost(f"the TLS handshake names {'no host' if name is None else name[:255]}, not {host}")
    return sent


class Carrier:
    """Carries what is not to be read: a thread in C does, and its descriptor tells this loop of what has ended.

    What is known over TLS is carried by this loop's own thread, where `waits` is what that waits with.
    """

    def __init__(self, waits: Waiting | None = None) -> None:
        self._waits = waits
        self._tunnels: Tunnels | None = None
        self._waiting: dict[tuple[Tunnels, int], asyncio.Future[Ended]] = {}

    @property
    def tunnels(self) -> Tunnels:
        """All that it carries. Raises OSError where the thread cannot start."""
        if self._tunnels is None:
            self._tunnels = self._heard(Tunnels(IDLE_S))
        return self._tunnels

    def takes(self, *sides: Side) -> bool:
        """Tell whether it can carry known exchanges between these."""
        return self._waits is not None or not _is_over_tls(sides)

    @property
    def over_tls(self) -> Tunnels:
        """What carries known exchanges over TLS. Raises OSError where there is no memory for it."""
        assert self._waits is not None
        if self._waits.tunnels is None:
            self._waits.tunnels = self._heard(Tunnels(IDLE_S, self._waits.fileno()))
        return self._waits.tunnels

    def between(self, *sides: Side) -> Tunnels:
        """Return what carries known exchanges between these, which it `takes`. Raises OSError, as `over_tls`."""
        return self.over_tls if _is_over_tls(sides) else self.tunnels

    def _heard(self, tunnels: Tunnels) -> Tunnels:
        asyncio.get_running_loop().add_reader(tunnels.fileno(), self._take_ended, tunnels)
        return tunnels

    async def carry(self, guest: Stream, host: Stream, meter: Meter) -> None:
        """Carry bytes both ways until both sides have ended, or nothing came for a while. Raises OverLimit, OSError."""
        tunnels = self.tunnels
        async with asyncio.timeout(IDLE_S):
            await _empty(guest, host, meter.sent)
            await _empty(host, guest, meter.received)
        with _socket_of(guest) as one, _socket_of(host) as other:
            number = tunnels.add(one.fileno(), other.fileno(), meter.counts)
            one.detach(), other.detach()
        with self.waiting(tunnels, number) as ended:
            raise_for((await ended).result, meter)

    @contextlib.contextmanager
    def waiting(self, tunnels: Tunnels, number: int) -> Iterator[asyncio.Future[Ended]]:
        """Yield what will tell how a tunnel has ended. Afterwards it has. To be entered at once by who began it."""
        ended = self._waiting[tunnels, number] = asyncio.get_running_loop().create_future()
        try:
            yield ended
        finally:
            del self._waiting[tunnels, number]
            tunnels.remove(number)

    def _take_ended(self, tunnels: Tunnels) -> None:
        for one in tunnels.ended():
            if (future := self._waiting.get((tunnels, one.number))) is not None and not future.done():
                future.set_result(one)

    def close(self) -> None:
        """End the thread, and with it all tunnels."""
        for tunnels in (self._tunnels, self._waits and self._waits.tunnels):
            if tunnels is not None:
                asyncio.get_running_loop().remove_reader(tunnels.fileno())
                tunnels.close()
        self._tunnels = None
        if self._waits is not None:
            self._waits.tunnels = None


def _is_over_tls(sides: Iterable[Side]) -> bool:
    return any(one.engine for one in sides)


def raise_for(result: int, meter: Meter) -> None:
    """Raise the OverLimit or OSError that a tunnel ended with, if any."""
    over = {OVER_SENT: meter.over_sent, OVER_RECEIVED: meter.over_received, OVER_REQUESTS: meter.over_requests}
    if result in over:
        raise over[result]()
    if result < 0:
        raise OSError(-result, os.strerror(-result), "tunnel")


async def _empty(source: Stream, sink: Stream, count: Callable[[int], None]) -> None:
    """Stop reading a stream, and send on what was read of it and what was written to the other."""
    reader, transport = source[0], source[1].transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    reader.feed_eof()
    data = await reader.read()
    transport.pause_reading()  # which a reader undoes where it had paused it itself
    if data:
        count(len(data))
        sink[1].write(data)
    sink[1].transport.set_write_buffer_limits(high=0)
    await sink[1].drain()


def _socket_of(stream: Stream) -> socket.socket:
    """Return the socket of a stream that is not read from any more, under another descriptor."""
    duplicate: socket.socket = stream[1].get_extra_info("socket").dup()
    return duplicate
