"""A body in thousands of pieces keeps the proxy's loop from nobody else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket

from pyisolate import Policy
from pyisolate.egress import forward
from pyisolate.egress.connection import Services, serve
from pyisolate.egress.messages import Admit
from pyisolate.egress.names import Names
from pyisolate.egress.tenants import Tenants
from pyisolate.policy import compile_policy
from tests.unit.test_egress_shortcut import _stream

CHUNKS = 4000
BODY = b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


async def _host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + CHUNKED + BODY)
        await writer.drain()


async def _nothing(message: object) -> None:
    raise AssertionError(message)


async def _passes() -> tuple[int, bytes]:
    """Return how often others came to their turn while one exchange was carried, and how it ended."""
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(_host, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    policy = Policy.preset("none").allow_connect(f"127.0.0.1:{port}").allow_http(f"* h.example:{port}/*")
    tenants = Tenants(_nothing)
    tenants.admit(Admit(key="k", token="t", policy=compile_policy(policy, resolve=lambda _host: ["127.0.0.1"])))
    guest, ours = socket.socketpair()
    guest.setblocking(False)
    served = asyncio.ensure_future(
        serve(Services(tenants, Names({"h.example": ("127.0.0.1",)}), None), *await _stream(ours))
    )
    login = base64.b64encode(b"u:t").decode()
    asked = f"POST http://h.example:{port}/x HTTP/1.1\r\nHost: h.example:{port}\r\nConnection: close\r\n"
    asked += f"Proxy-Authorization: Basic {login}\r\n"
    passes, got = 0, b""

    async def count() -> None:
        nonlocal passes
        while True:
            await asyncio.sleep(0)
            passes += 1

    sending = asyncio.ensure_future(loop.sock_sendall(guest, asked.encode() + CHUNKED + BODY))
    counting = asyncio.ensure_future(count())
    async with asyncio.timeout(20):
        while more := await loop.sock_recv(guest, 1 << 20):
            got += more
        await sending
        await served
    counting.cancel()
    guest.close()
    server.close()
    await asyncio.sleep(0)
    return passes, got


def test_others_have_their_turns_while_a_body_of_many_pieces_is_carried() -> None:
    passes, got = asyncio.run(_passes())
    assert got.count(b"x\r\n") == CHUNKS
    assert got.endswith(b"\r\n0\r\n\r\n")
    assert passes > 2 * CHUNKS // forward._PIECES
