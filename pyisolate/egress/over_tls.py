"""TLS by OpenSSL over memory instead of a socket: towards a guest whose tunnel is read, and towards its host.

asyncio's own TLS keeps a protocol and two queues between a socket and its reader; what is known is carried from the
callback that brings its bytes (`shortcut.py`), where those cost more than OpenSSL does.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Callable
from typing import TypeVar

from ..native.tunnels import Tls
from .streams import Inlet, Plain

_T = TypeVar("_T")
_READ_BYTES = 1 << 16
#: No record has more inside (RFC 8446, 5.1).
_RECORD_BYTES = 1 << 14


class OverTls:
    """A side over TLS: what is read of it and written to it is plain."""

    def __init__(self, under: Plain, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._under, self._tls, self._incoming, self._outgoing = under, tls, incoming, outgoing
        #: OpenSSL has met the end of what comes, or what it cannot read
        self._ended = False

    @property
    def below(self) -> Plain:
        """The connection's socket."""
        return self._under

    @property
    def engine(self) -> Tls:
        """What reads and writes it, for who takes it over."""
        return Tls(self._tls, self._incoming, self._outgoing)

    def taken_back(self, *, ended: bool) -> None:
        """Be read and written here again; `ended`: who had it has met the end."""
        self._ended = self._ended or ended

    @property
    def inlet(self) -> Inlet:
        """The connection's reader."""
        return self._under.inlet

    def rests(self) -> bool:
        """Tell whether nothing waits to be read, and more may come."""
        return self._under.rests() and not (self._ended or self._incoming.pending or self._tls.pending())

    def plain(self, data: bytes) -> bytes | None:
        """Return all that came inside of `data`, maybe nothing yet; None for anything else, which `read` meets again.

        The loop reports new bytes of the socket only, so it would not call again for a rest that OpenSSL holds.
        """
        self._incoming.write(data)
        try:
            return self._found(sys.maxsize)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError:
            return None
        finally:
            self._flush()

    def waits_to_write(self) -> bool:
        """Tell whether the other end has not taken what was sent before."""
        return self._under.waits_to_write()

    async def handshake(self) -> None:
        """Agree with the other end. Raises OSError where it does not."""
        await self._do(self._tls.do_handshake)

    async def read(self, most: int) -> bytes:
        """Return what has come, at most so many bytes; none: it has ended."""
        try:
            return await self._do(lambda: self._found(most))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def write(self, data: bytes) -> None:
        """Send data; `drain` waits for room."""
        left = memoryview(data)
        while left:  # OpenSSL may take a record at a time
            left = left[self._tls.write(left) :]
        self._flush()

    async def drain(self) -> None:
        """Wait until there is room to write."""
        await self._under.drain()

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def is_closing(self) -> bool:
        """Tell whether the connection has ended, or is being ended."""
        return self._under.is_closing()

    def close(self) -> None:
        """End the connection, once what was written is sent."""
        if not self.is_closing():
            self.write_eof()
        self._under.close()

    def _found(self, most: int) -> bytes:
        """Return what is inside of the records that came: OpenSSL gives one at a time. Raises SSLError for none."""
        found = b""
        try:
            # without a look at what is left, one more read would find out by an exception
            while not found or (len(found) < most and (self._incoming.pending or self._tls.pending())):
                if not (more := self._tls.read(min(most - len(found), _RECORD_BYTES))):
                    raise ssl.SSLZeroReturnError("it has ended")
                found += more
        except ssl.SSLWantReadError:
            if not found:
                raise
        except ssl.SSLError:
            self._ended = True
            if not found:
                raise
        return found

    async def _do(self, call: Callable[[], _T]) -> _T:
        """Return what OpenSSL returns, once it has enough."""
        while True:
            try:
                done = call()
            except ssl.SSLWantReadError:
                self._flush()
                if data := await self._under.read(_READ_BYTES):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                self._flush()  # an alert
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._under.write(self._outgoing.read())


async def to_guest(under: Plain, context: ssl.SSLContext, sent: bytes) -> OverTls:
    """Return the plain side of a tunnel, of whose handshake `sent` was read already. Raises OSError."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(sent)
    side = OverTls(under, context.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing)
    await side.handshake()
    return side


async def to_host(under: Plain, context: ssl.SSLContext, host: str) -> OverTls:
    """Return the plain side of a connection to a host, whose certificate `context` verifies. Raises OSError."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = OverTls(under, context.wrap_bio(incoming, outgoing, server_hostname=host), incoming, outgoing)
    await side.handshake()
    return side
