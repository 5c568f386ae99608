"""TLS over memory, towards guests and hosts: what is inside of records, and when a side rests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pyisolate.egress import over_tls
from pyisolate.egress.authority import Issuer, new_authority
from pyisolate.egress.forward import Upstream
from pyisolate.egress.heads import Heads, KnownAnswer, KnownRequest
from pyisolate.egress.hiding import Hider
from pyisolate.egress.meter import Meter
from pyisolate.egress.over_tls import OverTls
from pyisolate.egress.shortcut import Begun, Shortcut
from pyisolate.egress.streams import Plain
from pyisolate.egress.turns import Turns
from pyisolate.egress.work import Work
from pyisolate.policy.web import Request
from tests.unit.egress_peer import Peer
from tests.unit.test_egress_shortcut import ANSWER, ASKED, ONWARD, SENT, _stream

pytest.importorskip("cryptography")
HOST = "h.example"


def _with_host(story: Callable[[OverTls, Peer], Awaitable[None]]) -> None:
    async def run() -> None:
        authority = new_authority("hosts")
        theirs, ours = socket.socketpair()
        theirs.setblocking(False), ours.setblocking(False)
        peer = Peer(theirs, Issuer(authority).context(HOST))
        inlet, writer = await _stream(ours)
        context = ssl.create_default_context(cadata=authority.certificate)
        async with asyncio.timeout(10):
            agreed = asyncio.ensure_future(peer.agree())
            side = await over_tls.to_host(Plain(inlet, writer), context, HOST)
            await agreed
            await story(side, peer)
        side.close()
        theirs.close()
        await asyncio.sleep(0)

    asyncio.run(run())


def test_records_that_came_together_are_read_together_and_a_part_of_one_is_nothing_yet() -> None:
    async def story(side: OverTls, peer: Peer) -> None:
        await peer.send(peer.said() + peer.records(b"one", b"two", b"three"))
        assert await side.read(1 << 16) == b"onetwothree"
        assert side.rests()
        record = peer.records(b"whole")
        assert [side.plain(record[:9]), side.plain(record[9:])] == [b"", b"whole"]
        assert side.plain(peer.records(b"first", b"second")) == b"firstsecond"
        await peer.send(peer.records(b"0123456789"))
        assert [await side.read(4), await side.read(1 << 16)] == [b"0123", b"456789"]

    _with_host(story)


def test_a_side_whose_end_was_said_behind_its_last_word_rests_no_more() -> None:
    async def story(side: OverTls, peer: Peer) -> None:
        assert side.plain(peer.said() + peer.records(b"last")) == b"last"
        assert side.rests()  # the control
        assert side.plain(peer.records(b"word") + peer.farewell()) == b"word"
        assert not side.rests()
        assert await side.read(9) == b""

    _with_host(story)


def test_all_that_came_at_once_is_found_at_once_however_much() -> None:
    async def story(side: OverTls, peer: Peer) -> None:
        for size in (1, 65400, 65536, 65537, 131072, 250000):
            assert side.plain(peer.said() + peer.records(bytes(size))) == bytes(size)
            assert side.rests()
        assert side.plain(peer.records(bytes(65536), b"more")[:-1]) == bytes(65536)  # a part of a record waits

    _with_host(story)


def test_who_cannot_show_a_certificate_for_the_name_is_no_host() -> None:
    async def run() -> None:
        authority = new_authority("hosts")
        theirs, ours = socket.socketpair()
        theirs.setblocking(False), ours.setblocking(False)
        peer = Peer(theirs, Issuer(authority).context("other.example"))
        inlet, writer = await _stream(ours)
        agreed = asyncio.ensure_future(peer.agree())
        async with asyncio.timeout(10):
            with pytest.raises(ssl.SSLCertVerificationError, match="certificate is not valid for"):
                await over_tls.to_host(
                    Plain(inlet, writer), ssl.create_default_context(cadata=authority.certificate), HOST
                )
        writer.close()
        agreed.cancel()
        await asyncio.gather(agreed, return_exceptions=True)
        theirs.close()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def _asking(side: OverTls) -> AsyncIterator[tuple[socket.socket, Upstream, asyncio.Task[bytes | Begun | None]]]:
    guest, ours = socket.socketpair()
    guest.setblocking(False), ours.setblocking(False)
    known: Heads[KnownRequest] = Heads(4)
    known.put(ASKED, KnownRequest(Request("GET", "h", 80, "/x"), b"/x", SENT, 0))
    up = Upstream(("h", 80), side)
    up.answers.put(ANSWER, KnownAnswer(ONWARD, 4))
    inlet, writer = await _stream(ours)

    def find(data: bytes) -> KnownRequest | None:
        found = known.find(data)
        return None if found is None else found[0]

    carried = Shortcut(Plain(inlet, writer), up, Meter(), find, Hider(), Turns(Work()))
    done = asyncio.ensure_future(carried.run(10))
    await asyncio.sleep(0)
    try:
        yield guest, up, done
    finally:
        done.cancel()
        await asyncio.gather(done, return_exceptions=True)
        writer.close(), guest.close()


async def _came(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1 << 16)


def test_what_tls_says_for_itself_is_no_word_of_a_host_that_was_not_asked() -> None:
    async def story(side: OverTls, peer: Peer) -> None:
        tickets = peer.said()  # of TLS 1.3, after the handshake
        assert tickets
        async with _asking(side) as (guest, up, done):
            await peer.send(tickets)
            for half in (False, True):
                await asyncio.get_running_loop().sock_sendall(guest, ASKED)
                assert await peer.receive() == SENT
                answer = peer.records(ANSWER + b"body")
                if half:
                    await peer.send(answer[:7])
                    await asyncio.sleep(0.01)
                await peer.send(answer[7:] if half else answer)
                assert await _came(guest) == ONWARD + b"body"
            assert up.serves(("h", 80))
            assert not done.done()
            await peer.send(peer.records(b"unasked"))
            while not side.is_closing():
                await asyncio.sleep(0.01)

    _with_host(story)


def test_what_another_one_has_put_in_the_place_of_an_answer_is_the_end_of_the_host() -> None:
    async def story(side: OverTls, peer: Peer) -> None:
        async with _asking(side) as (guest, _, done):
            await peer.send(peer.said())
            await asyncio.get_running_loop().sock_sendall(guest, ASKED)
            assert await peer.receive() == SENT
            await peer.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody has sealed
            found = await done
            assert isinstance(found, Begun)
            assert found.answer == b""

    _with_host(story)


@pytest.mark.parametrize("ended", [False, True], ids=["the rest comes", "its end comes"])
def test_an_end_behind_a_part_of_an_answer_is_met_at_once(ended: bool) -> None:
    async def story(side: OverTls, peer: Peer) -> None:
        async with _asking(side) as (guest, up, done):
            await peer.send(peer.said())
            await asyncio.get_running_loop().sock_sendall(guest, ASKED)
            assert await peer.receive() == SENT
            part = peer.records(ANSWER + b"bo")
            await peer.send(part + peer.farewell() if ended else part)  # of TLS: the connection below stays open
            assert await _came(guest) == ONWARD + b"bo"
            if ended:
                with pytest.raises(ConnectionAbortedError):
                    await done
            else:
                await peer.send(peer.records(b"dy"))
                assert await _came(guest) == b"dy"
                assert up.serves(("h", 80))
                assert not done.done()

    _with_host(story)
