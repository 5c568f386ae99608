"""Streams of asyncio whose bytes can be taken as they come, before a task is woken to read them."""

from __future__ import annotations

import asyncio
import asyncio.trsock
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from ..native.tunnels import Tls

#: What is kept of a stream that is not read (bytes).
_LIMIT = 1 << 16
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Inlet(asyncio.StreamReader):
    """A stream's reader. While it has a `taker`, that is offered what comes, b"" at the end, and says if it took it."""

    def __init__(self) -> None:
        super().__init__(limit=_LIMIT, loop=asyncio.get_running_loop())
        self.taker: Callable[[bytes], bool] | None = None
        self._held, self._broken = 0, False
        #: what is below, of a host: while a request is sent to it, it may answer, and close before it has read all
        self.below: asyncio.trsock.TransportSocket | None = None
        self.sending = False

    @property
    def empty(self) -> bool:
        """True where nothing waits to be read, and more may come."""
        return self._held <= 0 and not self._broken and not self.at_eof()

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # what transports give
        """Take what has come. asyncio calls it."""
        if self.taker is None or not self.taker(data):
            self._held += len(data)
            super().feed_data(data)

    def feed_eof(self) -> None:
        """Note that nothing more comes. asyncio calls it."""
        super().feed_eof()
        if self.taker is not None:
            self.taker(b"")

    def set_exception(self, exc: Exception) -> None:
        """Note that the connection broke. asyncio calls it, and closes the socket then.

        An answer that came before is read to its end while the request is sent, as by one who reads the socket itself.
        """
        self._broken = True
        if self.sending and isinstance(exc, ConnectionError) and self._take_rest():
            self.feed_eof()
            return
        super().set_exception(exc)
        if self.taker is not None:
            self.taker(b"")

    def _take_rest(self) -> bool:
        """Take what the kernel has yet, after the error that it said once; tell whether that is all."""
        assert self.below is not None
        left = _LIMIT
        with contextlib.suppress(OSError):
            while left > 0:
                if not (data := os.read(self.below.fileno(), left)):
                    return True
                left -= len(data)
                self.feed_data(data)
        return False

    async def read(self, n: int = -1) -> bytes:
        """Return what has come, at most so many bytes."""
        data = await super().read(n)
        self._held -= len(data)
        return data


class Side(Protocol):
    """One side of an exchange, a guest's or a host's: what comes from it and goes to it is plain, whatever is below."""

    @property
    def inlet(self) -> Inlet:
        """The connection's reader: what is below."""
        ...

    @property
    def below(self) -> Plain:
        """The connection's socket."""
        ...

    @property
    def engine(self) -> Tls | None:
        """The TLS over it, for who takes both over."""
        ...

    def taken_back(self, *, ended: bool) -> None:
        """Be read and written here again; `ended`: who had it has met the end of TLS."""
        ...

    def rests(self) -> bool:
        """Tell whether nothing waits to be read, and more may come."""
        ...

    def plain(self, data: bytes) -> bytes | None:
        """Return all that is inside of what came, maybe nothing yet; None where `read` must find out."""
        ...

    def waits_to_write(self) -> bool:
        """Tell whether the other end has not taken what was sent before."""
        ...

    async def read(self, most: int, /) -> bytes:
        """Return what has come, at most so many bytes; none: it has ended."""
        ...

    def write(self, data: bytes, /) -> None:
        """Send data; `drain` waits for room."""
        ...

    async def drain(self) -> None:
        """Wait until there is room to write."""
        ...

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        ...

    def is_closing(self) -> bool:
        """Tell whether the connection has ended, or is being ended."""
        ...

    def close(self) -> None:
        """End the connection, once what was written is sent."""
        ...


class Plain:
    """A side without TLS."""

    def __init__(self, inlet: Inlet, writer: asyncio.StreamWriter) -> None:
        self.inlet, self.writer = inlet, writer
        self.read, self.write, self.drain = inlet.read, writer.write, writer.drain
        self.write_eof, self.is_closing, self.close = writer.write_eof, writer.is_closing, writer.close

    @property
    def below(self) -> Plain:
        """The connection's socket: itself."""
        return self

    @property
    def engine(self) -> None:
        """There is no TLS."""
        return

    def taken_back(self, *, ended: bool) -> None:
        """Be read and written here again."""

    @property
    def stream(self) -> Stream:
        """What is below, for who takes it over."""
        return self.inlet, self.writer

    @property
    def transport(self) -> asyncio.Transport:
        """What is below."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport

    def rests(self) -> bool:
        """Tell whether nothing waits to be read, and more may come."""
        return self.inlet.empty

    def plain(self, data: bytes) -> bytes | None:
        """Return what is inside: the same."""
        return data

    def waits_to_write(self) -> bool:
        """Tell whether the other end has not taken what was sent before."""
        return self.transport.get_write_buffer_size() > 0


async def take(accepted: socket.socket, serve: Callable[[Inlet, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """Have a connection that was accepted served, in a task of its own. Raises OSError."""
    loop = asyncio.get_running_loop()
    inlet = Inlet()
    protocol = asyncio.StreamReaderProtocol(inlet, lambda _, writer: serve(inlet, writer), loop=loop)
    await loop.connect_accepted_socket(lambda: protocol, accepted)


async def open_connection(address: str, port: int) -> tuple[Inlet, asyncio.StreamWriter]:
    """Connect, as asyncio.open_connection does. Raises OSError."""
    loop = asyncio.get_running_loop()
    inlet = Inlet()
    protocol = asyncio.StreamReaderProtocol(inlet, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, address, port)
    inlet.below = transport.get_extra_info("socket")
    return inlet, asyncio.StreamWriter(transport, protocol, inlet, loop)
