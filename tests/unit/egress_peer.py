"""The other end of the proxy's TLS, as a test plays it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl


class Peer:
    """A host, or a guest who asks for one, by OpenSSL over memory, too: each record is sent when the test says so."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, asks_for: str | None = None) -> None:
        self._sock, self._incoming, self._outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        is_host = asks_for is None
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_host, server_hostname=asks_for)

    async def agree(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send(self.said())
                self._incoming.write(await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16))
        if not self.tls.server_side:
            await self.send(self.said())  # its last word; a host's are tickets, which a test sends

    def said(self) -> bytes:
        return self._outgoing.read()

    def records(self, *texts: bytes) -> bytes:
        for text in texts:
            self.tls.write(text)
        return self.said()

    def farewell(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.said()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self, most: int = 1 << 16) -> bytes:
        while True:
            try:
                return self.tls.read(most)
            except ssl.SSLWantReadError:
                self._incoming.write(await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16))

    def nothing_came(self) -> bool:
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            self._incoming.write(self._sock.recv(1 << 16))
        try:
            return not self.tls.read(1)
        except ssl.SSLWantReadError:
            return True
