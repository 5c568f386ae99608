"""A CONNECT: its first bytes must be a TLS handshake that names the host; then bytes go both ways, unread."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from .forward import Stream
from .meter import Meter

#: Until the handshake has named its host (seconds).
_HANDSHAKE_S = 30.0
#: A record of TLS: type 22 is a handshake, then version and length (RFC 8446, 5.1). A ClientHello with post-quantum
#: keys has 2 kB, and is in one or two.
_RECORD_HEAD, _HANDSHAKE_RECORD, _MOST_RECORDS = 5, 22, 4
#: Without a byte either way for so long, a tunnel ends (seconds).
IDLE_S = 900.0
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


async def carry(guest: Stream, host: Stream, meter: Meter) -> None:
    """Carry bytes both ways until both sides have ended, or nothing came for a while. Raises OverLimit."""
    loop = asyncio.get_running_loop()
    last = [loop.time()]

    async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]) -> None:
        while data := await reader.read(1 << 16):
            last[0] = loop.time()
            count(len(data))
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    ways = [
        asyncio.ensure_future(one_way(guest[0], host[1], meter.sent)),
        asyncio.ensure_future(one_way(host[0], guest[1], meter.received)),
    ]
    try:
        while True:
            left = last[0] + IDLE_S - loop.time()
            done, waiting = await asyncio.wait(ways, timeout=max(left, 0), return_when=asyncio.FIRST_EXCEPTION)
            for one in done:
                one.result()  # or what ended it
            if not waiting or left <= 0:
                return
    finally:
        for one in ways:
            one.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
