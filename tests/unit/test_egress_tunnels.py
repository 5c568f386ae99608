"""Tunnels: every byte arrives both ways, whoever is slow, and each is counted, by the thread in C as by Python."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyisolate.egress.meter import Meter, OverLimit
from pyisolate.egress.streams import Stream
from pyisolate.egress.tunnel import Carrier
from pyisolate.policy.compiled import EgressLimits

_BIG = os.urandom(1 << 22)


@contextlib.asynccontextmanager
async def _side() -> AsyncIterator[tuple[socket.socket, Stream]]:
    """Yield what a peer has, and the proxy's side of it."""
    peer, ours = socket.socketpair()
    peer.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    with peer:
        yield peer, (reader, writer)
        writer.close()


async def _digest(peer: socket.socket) -> str:
    found, loop = hashlib.sha256(), asyncio.get_running_loop()
    while data := await loop.sock_recv(peer, 1 << 16):
        found.update(data)
        await asyncio.sleep(0)
    return found.hexdigest()


async def _send(peer: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, _BIG)
    peer.shutdown(socket.SHUT_WR)


def test_all_arrives_both_ways_and_is_counted() -> None:
    async def main() -> None:
        carrier, meter = Carrier(), Meter()
        async with _side() as (guest, guest_stream), _side() as (host, host_stream):
            guest.send(b"early")
            await asyncio.sleep(0)
            carrying = asyncio.ensure_future(carrier.carry(guest_stream, host_stream, meter))
            assert await asyncio.get_running_loop().sock_recv(host, 5) == b"early"
            sent = await asyncio.gather(_digest(guest), _digest(host), _send(guest), _send(host))
            assert sent[:2] == [hashlib.sha256(_BIG).hexdigest()] * 2
            await asyncio.wait_for(carrying, 5)
        carrier.close()
        assert (meter.carried.sent_bytes, meter.carried.received_bytes) == (len(_BIG) + 5, len(_BIG))

    asyncio.run(main())


@pytest.mark.parametrize("way", ["sent", "received"])
def test_a_tunnel_ends_at_the_limit_and_what_is_over_it_does_not_arrive(way: str) -> None:
    async def main() -> None:
        carrier, meter = Carrier(), Meter()
        meter.limits = EgressLimits(sent_bytes=10) if way == "sent" else EgressLimits(received_bytes=10)
        async with _side() as (guest, guest_stream), _side() as (host, host_stream):
            sender, other = (guest, host) if way == "sent" else (host, guest)
            carrying = asyncio.ensure_future(carrier.carry(guest_stream, host_stream, meter))
            await asyncio.get_running_loop().sock_sendall(sender, b"x" * 10)
            assert await asyncio.get_running_loop().sock_recv(other, 20) == b"x" * 10
            await asyncio.get_running_loop().sock_sendall(sender, b"y")
            with pytest.raises(OverLimit, match=f"more than 10 bytes {way}"):
                await asyncio.wait_for(carrying, 5)
            with pytest.raises(BlockingIOError):
                other.recv(1)
        carrier.close()
        assert meter.carried.sent_bytes + meter.carried.received_bytes == 10

    asyncio.run(main())


def test_a_tunnel_that_is_given_up_leaves_no_descriptor() -> None:
    async def main() -> None:
        carrier, meter = Carrier(), Meter()
        async with _side() as (_, guest), _side() as (host, host_stream):
            carrying = asyncio.ensure_future(carrier.carry(guest, host_stream, meter))
            await asyncio.sleep(0.01)
            open_then = len(list(Path("/proc/self/fd").iterdir()))
            carrying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await carrying
            assert len(list(Path("/proc/self/fd").iterdir())) == open_then - 2
            host.send(b"to nobody")
        carrier.close()
        assert meter.carried.received_bytes == 0

    asyncio.run(main())
