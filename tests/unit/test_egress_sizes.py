"""Bodies about as large as one read arrive whole: read by h11 and then through known lengths, both ways.

Over TLS, what came in one read and stayed in OpenSSL, no socket would tell of any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from pyisolate import Policy
from pyisolate.egress import over_tls
from pyisolate.egress.authority import Issuer, new_authority
from pyisolate.egress.connection import Connection, Services
from pyisolate.egress.messages import Admit
from pyisolate.egress.names import Names
from pyisolate.egress.streams import Plain, Side
from pyisolate.egress.tenants import Tenant, Tenants
from pyisolate.policy import compile_policy
from pyisolate.policy.web import CONNECT, Request
from tests.unit.test_egress_over_tls import HOST, Peer
from tests.unit.test_egress_shortcut import _stream

pytest.importorskip("cryptography")
#: The last are of known heads on both sides: the shortcut's, and after three of them the thread's.
ROUNDS = 7


class End(Protocol):
    """One end of an exchange."""

    def records(self, *texts: bytes) -> bytes: ...

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...


class Bare:
    """One without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def records(self, *texts: bytes) -> bytes:
        return b"".join(texts)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16)


async def _nothing(message: object) -> None:
    raise AssertionError(message)


async def _tenant(tls: bool) -> tuple[Services, Tenant]:
    rule = f"POST {'https://' if tls else ''}{HOST}:444/*"
    stated = Policy.preset("none").allow_connect("127.0.0.1:444").allow_http(rule).with_egress(inspect_tls=tls)
    policy = compile_policy(stated, resolve=lambda _host: ["127.0.0.1"])
    tenants = Tenants(_nothing)
    tenants.admit(Admit(key="k", token="t", policy=policy))
    return Services(tenants, Names({HOST: ("127.0.0.1",)}), None), next(iter(tenants._known.values()))


@contextlib.asynccontextmanager
async def _ends(tls: bool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[End, End, Tenant]]:
    """Yield a guest's and a host's end, with a connection between them that the proxy serves."""
    socks = (guest, ours, theirs, host) = (*socket.socketpair(), *socket.socketpair())
    for sock in socks:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # a body, and all that is around it: one read
    (side, up) = [Plain(*await _stream(sock)) for sock in (ours, theirs)]
    services, tenant = await _tenant(tls)
    ends: tuple[End, End] = (Bare(guest), Bare(host))
    inner: Side = side
    if tls:
        authority = new_authority("both")
        shown, trusted = Issuer(authority).context(HOST), ssl.create_default_context(cadata=authority.certificate)
        peers = Peer(guest, trusted, HOST), Peer(host, shown)
        agreed = asyncio.gather(*(peer.agree() for peer in peers))
        inner = await over_tls.to_guest(side, shown, b"")
        reached: Side = await over_tls.to_host(up, trusted, HOST)
        await agreed
        ends = peers
    else:
        reached = up

    async def connected(*_where: object) -> Side:
        return reached

    monkeypatch.setattr("pyisolate.egress.connection.connect", connected)
    monkeypatch.setattr("pyisolate.egress.connection.connect_over_tls", connected)
    tunnel = Request(CONNECT, HOST, 444) if tls else None
    connection = Connection(services, inner, tenant, tunnel)
    served = asyncio.ensure_future(connection.serve())
    try:
        yield (*ends, tenant)
    finally:
        served.cancel()
        await asyncio.gather(served, return_exceptions=True)
        services.carrier.close()
        inner.close(), reached.close()
        guest.close(), host.close()
        await asyncio.sleep(0)


async def _whole(end: End, size: int) -> bytes:
    """Return the body that comes with that length."""
    got = b""
    while len((parts := got.partition(b"\r\n\r\n"))[2]) < size or not parts[1]:
        got += await end.receive()
    assert b"content-length: %d\r\n" % size in parts[0].lower() + b"\r\n"
    return parts[2]


async def _say(end: End, text: bytes, cut: int) -> None:
    """Send it at once, or in two."""
    said = end.records(text)
    await end.send(said[: cut or None])
    if cut:
        await asyncio.sleep(0.01)
        await end.send(said[cut:])


async def _exchanges(asked: int, answered: int, tls: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """Carry some, and return how many the proxy counted."""
    head = b"POST %b/x HTTP/1.1\r\nHost: %b:444\r\n" % (b"" if tls else b"http://%b:444" % HOST.encode(), HOST.encode())
    head += b"" if tls else b"Proxy-Authorization: Basic dTp0\r\n"
    async with _ends(tls, monkeypatch) as (guest, host, tenant), asyncio.timeout(5):
        for number in range(ROUNDS):
            request, answer = (bytes([number + at]) * size for at, size in ((1, asked), (65, answered)))
            cut = 40000 if number == ROUNDS - 2 else 0
            saying = asyncio.ensure_future(_say(guest, head + b"Content-Length: %d\r\n\r\n" % asked + request, cut))
            assert await _whole(host, asked) == request
            await saying
            said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % answered + answer
            saying = asyncio.ensure_future(_say(host, said, cut))
            assert await _whole(guest, answered) == answer
            await saying
        return tenant.meter.carried.requests


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("way", ["asked", "answered", "both"])
@pytest.mark.parametrize("size", [65400, 65536, 65537, 131072])
def test_a_body_about_as_large_as_a_read_arrives_whole(
    size: int, way: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = 0 if way == "answered" else size, 0 if way == "asked" else size
    assert asyncio.run(_exchanges(asked, answered, tls, monkeypatch)) == ROUNDS
