"""Streams of asyncio whose bytes can be taken as they come, before a task is woken to read them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

#: What is kept of a stream that is not read (bytes).
_LIMIT = 1 << 16
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Inlet(asyncio.StreamReader):
    """A stream's reader. While it has a `taker`, that is offered what comes, b"" at the end, and says if it took it."""

    def __init__(self) -> None:
        super().__init__(limit=_LIMIT, loop=asyncio.get_running_loop())
        self.taker: Callable[[bytes], bool] | None = None
        self._held, self._broken = 0, False

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
        """Note that the connection broke. asyncio calls it."""
        super().set_exception(exc)
        self._broken = True
        if self.taker is not None:
            self.taker(b"")

    async def read(self, n: int = -1) -> bytes:
        """Return what has come, at most so many bytes."""
        data = await super().read(n)
        self._held -= len(data)
        return data


async def start_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    listener: socket.socket,
    backlog: int,
) -> asyncio.Server:
    """Serve each connection, as asyncio.start_server does."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: asyncio.StreamReaderProtocol(Inlet(), serve, loop=loop), sock=listener, backlog=backlog
    )


async def open_connection(address: str, port: int, context: ssl.SSLContext | None, host: str | None) -> Stream:
    """Connect, as asyncio.open_connection does. Raises OSError."""
    loop = asyncio.get_running_loop()
    inlet = Inlet()
    protocol = asyncio.StreamReaderProtocol(inlet, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, address, port, ssl=context, server_hostname=host)
    return inlet, asyncio.StreamWriter(transport, protocol, inlet, loop)
