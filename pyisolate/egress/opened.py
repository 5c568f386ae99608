"""The guest's side of a tunnel that is read: TLS ends here, by OpenSSL, over memory instead of a socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import TypeVar

from .streams import Inlet, Stream

_T = TypeVar("_T")
_READ_BYTES = 1 << 16


class Opened:
    """A stream over TLS: what is read of it and written to it is plain."""

    def __init__(self, stream: Stream, context: ssl.SSLContext, sent: bytes) -> None:
        """`sent` is what was read of the handshake already."""
        self._reader, self._writer = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(sent)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @property
    def inlet(self) -> Inlet:
        """The connection's reader."""
        assert isinstance(self._reader, Inlet)
        return self._reader

    @property
    def writer(self) -> Opened:
        """What answers are written to."""
        return self

    def rests(self) -> bool:
        """Tell whether nothing waits to be read, and more may come."""
        return self.inlet.empty and not self._incoming.pending and not self._tls.pending()

    def plain(self, data: bytes) -> bytes | None:
        """Return what came inside of `data`, maybe nothing yet; None for anything else, which `read` meets again."""
        self._incoming.write(data)
        found = b""
        try:
            while more := self._tls.read(_READ_BYTES):
                found += more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return found or None
        finally:
            self._flush()
        return found

    def waits_to_write(self) -> bool:
        """Tell whether the guest has not taken what was sent before."""
        return self._writer.transport.get_write_buffer_size() > 0

    async def handshake(self) -> None:
        """Agree with the guest. Raises OSError where it does not."""
        await self._do(self._tls.do_handshake)

    async def read(self, most: int) -> bytes:
        """Return what has come, at most so many bytes; none: it has ended."""
        try:
            return await self._do(lambda: self._tls.read(most))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def write(self, data: bytes) -> None:
        """Send `data`; `drain` waits for room."""
        left = memoryview(data)
        while left:  # OpenSSL may take a record at a time
            left = left[self._tls.write(left) :]
        self._flush()

    async def drain(self) -> None:
        """Wait until there is room to write."""
        await self._writer.drain()

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    async def _do(self, call: Callable[[], _T]) -> _T:
        """Return what OpenSSL returns, once it has enough."""
        while True:
            try:
                done = call()
            except ssl.SSLWantReadError:
                self._flush()
                if data := await self._reader.read(_READ_BYTES):
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
            self._writer.write(self._outgoing.read())


async def open_tunnel(stream: Stream, context: ssl.SSLContext, sent: bytes, timeout_s: float) -> Opened:
    """Return the plain side of a tunnel. Raises OSError, TimeoutError."""
    opened = Opened(stream, context, sent)
    async with asyncio.timeout(timeout_s):
        await opened.handshake()
    return opened
