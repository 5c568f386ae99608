"""What C carries of known exchanges: nothing but what is known, one at a time, all of it counted.

Each story is told without TLS, which the tunnels' thread carries, and with TLS on both sides, which the loop's own
thread does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from pyisolate.egress import over_tls
from pyisolate.egress.authority import Authority, Issuer, new_authority
from pyisolate.egress.forward import Upstream
from pyisolate.egress.handed import Handed
from pyisolate.egress.heads import KnownAnswer, KnownRequest
from pyisolate.egress.hiding import Hider
from pyisolate.egress.meter import Meter, OverLimit
from pyisolate.egress.over_tls import OverTls
from pyisolate.egress.shortcut import Begun
from pyisolate.egress.streams import Plain
from pyisolate.egress.tunnel import Carrier
from pyisolate.egress.waiting import Waiting, run
from pyisolate.policy.compiled import EgressLimits
from pyisolate.policy.web import Request
from tests.unit.egress_peer import Peer
from tests.unit.test_egress_shortcut import ANSWER, ASKED, ONWARD, OTHER, SENT, Sides, _stream

HOST = "h.example"
POSTED = b"POST http://h/x HTTP/1.1\r\nHost: h\r\nSecret: p\r\nContent-Length: 4\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n"
GET = Request("GET", "h", 80, "/x")
REQUESTS = [
    (ASKED, KnownRequest(GET, b"/x", SENT, 0)),
    (POSTED, KnownRequest(Request("POST", "h", 80, "/x"), b"/x", POST, 4)),
    (OTHER, KnownRequest(Request("GET", "other", 80, "/y"), b"/y", SENT, 0)),  # of another host: none of this one's
]


@dataclass
class Ends(Sides):
    """With C between them. `peers`: who speaks TLS at these ends."""

    side: Plain | OverTls
    carrier: Carrier
    handed: Handed
    peers: dict[socket.socket, Peer]

    async def send(self, sock: socket.socket, data: bytes) -> None:
        await super().send(sock, self.peers[sock].records(data) if sock in self.peers else data)

    async def receive(self, sock: socket.socket, count: int) -> bytes:
        if (peer := self.peers.get(sock)) is None:
            return await super().receive(sock, count)
        got = b""
        async with asyncio.timeout(5):
            while len(got) < count and (more := await peer.receive(count - len(got))):
                got += more
        return got

    async def ask(self) -> None:
        await self.send(self.guest, ASKED)
        assert await self.receive(self.host, len(SENT)) == SENT

    async def exchange(self, body: bytes = b"body") -> None:
        await self.ask()
        await self.send(self.host, ANSWER + body)
        assert await self.receive(self.guest, len(ONWARD) + 4) == ONWARD + body

    def nothing_came(self, sock: socket.socket) -> bool:
        if sock in self.peers:
            return self.peers[sock].nothing_came()
        try:
            return not sock.recv(1)
        except (BlockingIOError, ConnectionResetError):  # reset: it was closed with bytes unread
            return True

    def expire(self, ask_s: float, answer_s: float) -> float:
        tunnels = self.carrier.over_tls if self.peers else self.carrier.tunnels
        return tunnels.expire(1, ask_s, answer_s)


@functools.cache
def authority() -> Authority:
    return new_authority("both")


async def agreed(
    guest: socket.socket, ours: Plain, theirs: Plain, host: socket.socket
) -> tuple[Peer, Peer, OverTls, OverTls]:
    """Return the guest, the host, and the proxy's sides to them, after their handshakes."""
    certificate = Issuer(authority()).context(HOST)
    trusting = ssl.create_default_context(cadata=authority().certificate)
    asks, answers = Peer(guest, trusting, HOST), Peer(host, certificate)
    _, _, side, up = await asyncio.gather(
        asks.agree(),
        answers.agree(),
        over_tls.to_guest(ours, certificate, b""),
        over_tls.to_host(theirs, trusting, HOST),
    )
    return asks, answers, side, up


@contextlib.asynccontextmanager
async def _ends(
    limits: EgressLimits, head_s: float, early: tuple[bytes, bytes], hidden: Sequence[bytes], waits: Waiting | None
) -> AsyncIterator[Ends]:
    (guest, ours), (theirs, host) = socket.socketpair(), socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for sock in (guest, ours, theirs, host):
        sock.setblocking(False)
    plain, host_plain = Plain(*await _stream(ours)), Plain(*await _stream(theirs))
    side: Plain | OverTls = plain
    host_side: Plain | OverTls = host_plain
    peers = {}
    if waits is not None:
        peers[guest], peers[host], side, host_side = await agreed(guest, plain, host_plain, host)
    up, meter, carrier = Upstream(("h", 80), host_side), Meter(), Carrier(waits)
    up.answers.put(ANSWER, KnownAnswer(ONWARD, 4))
    up.answers.put(LARGE, KnownAnswer(ONWARD, 65536))
    meter.limits = limits
    hider = Hider()
    hider.hidden = list(hidden)
    handed = Handed(carrier, side, up, meter, REQUESTS, hider)
    done = asyncio.ensure_future(_after(early, guest, host, peers, handed.run(head_s)))
    await asyncio.sleep(0)
    yield Ends(guest, host, up, meter, done, side, carrier, handed, peers)
    done.cancel()
    await asyncio.gather(done, return_exceptions=True)
    carrier.close()
    for one in (plain, host_plain):
        one.close()
    guest.close(), host.close()
    await asyncio.sleep(0)


async def _after(
    early: tuple[bytes, bytes],
    guest: socket.socket,
    host: socket.socket,
    peers: dict[socket.socket, Peer],
    run: Coroutine[Any, Any, bytes | Begun | None],
) -> bytes | Begun | None:
    """Run what carries, which finds what both have said."""
    for sock, data in zip((guest, host), early, strict=True):
        if data:
            sock.send(peers[sock].records(data) if peers else data)
    return await run


class Carry(Protocol):
    """Has a story happen."""

    def __call__(
        self,
        story: Callable[[Ends], Awaitable[None]],
        limits: EgressLimits | None = None,
        head_s: float = 30,
        early: tuple[bytes, bytes] = (b"", b""),
        hidden: Sequence[bytes] = (),
    ) -> None: ...


def carry_over(waits: Callable[[], Waiting | None]) -> Carry:
    def carry(
        story: Callable[[Ends], Awaitable[None]],
        limits: EgressLimits | None = None,
        head_s: float = 30,
        early: tuple[bytes, bytes] = (b"", b""),
        hidden: Sequence[bytes] = (),
    ) -> None:
        waiting = waits()

        async def tell() -> None:
            async with _ends(limits or EgressLimits(), head_s, early, hidden, waiting) as ends:
                await story(ends)

        run(tell(), waiting)

    return carry


@pytest.fixture(params=["plain", "TLS"])
def carry(request: pytest.FixtureRequest) -> Carry:
    if request.param == "TLS":
        pytest.importorskip("cryptography")
        return carry_over(Waiting)
    return carry_over(lambda: None)


def test_known_exchanges_are_counted_and_what_else_comes_is_given_back_whole(carry: Carry) -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        await ends.exchange(b"BODY")
        carried = ends.meter.carried
        assert (carried.requests, carried.sent_bytes, carried.received_bytes) == (2, 2 * len(SENT), 2 * len(ONWARD) + 8)
        assert ends.meter.counts.spent_s() > 0  # by C
        assert not ends.done.done()
        await ends.send(ends.guest, OTHER)
        assert await ends.result() == OTHER
        assert ends.up.serves(("h", 80))
        await ends.send(ends.guest, b"more")
        assert await ends.side.read(4) == b"more"  # the task reads on

    carry(story)


def test_a_body_of_the_stated_length_goes_on_behind_its_head(carry: Carry) -> None:
    async def story(ends: Ends) -> None:
        for body in (b"one!", b"\r\n\r\n"):
            await ends.send(ends.guest, POSTED + body)
            assert await ends.receive(ends.host, len(POST) + 4) == POST + body
            await ends.send(ends.host, ANSWER + b"body")
            assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert ends.meter.carried.sent_bytes == 2 * (len(POST) + 4)

    carry(story)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(ASKED + ASKED, id="two at once"),
        pytest.param(ASKED + OTHER, id="another behind it"),
        pytest.param(ASKED + b"G", id="a byte of another"),
        pytest.param(ASKED[:-2], id="a part of a head"),
        pytest.param(ASKED.replace(b"Secret: p", b"Secret: q"), id="another password"),
        pytest.param(ASKED.replace(b"GET", b"get"), id="another case"),
        pytest.param(b"\r\n" + ASKED, id="an empty line before it"),
        pytest.param(POSTED + b"bod", id="a part of a body"),
        pytest.param(POSTED + b"body" + ASKED, id="another behind a body"),
        pytest.param(OTHER, id="known for another host"),
    ],
)
def test_nothing_of_what_is_not_just_one_known_request_goes_on(carry: Carry, asked: bytes) -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        await ends.send(ends.guest, asked)
        assert await ends.result() == asked
        assert ends.nothing_came(ends.host)
        assert ends.meter.carried.requests == 1

    carry(story)


def test_what_the_guest_says_before_its_turn_waits_for_the_end_of_the_answer(carry: Carry) -> None:
    async def story(ends: Ends) -> None:
        await ends.ask()
        await ends.send(ends.guest, ASKED)
        await ends.send(ends.host, ANSWER + b"bo")
        assert await ends.receive(ends.guest, len(ONWARD) + 2) == ONWARD + b"bo"
        assert ends.nothing_came(ends.host)
        await ends.send(ends.host, b"dy")
        assert await ends.receive(ends.guest, 2) == b"dy"
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await ends.send(ends.host, ANSWER + b"body")
        ends.guest.shutdown(socket.SHUT_WR)
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert await ends.result() is None  # the task meets the end
        assert ends.meter.carried.requests == 2

    carry(story)


@pytest.mark.parametrize("answer", [ANSWER.replace(b"4", b"9"), b"HTTP/1.1 2", b"nonsense", b"\r\n" + ANSWER, b""])
def test_an_unknown_answer_is_the_tasks(carry: Carry, answer: bytes) -> None:
    async def story(ends: Ends) -> None:
        await ends.send(ends.guest, POSTED + b"body")
        assert await ends.receive(ends.host, len(POST) + 4) == POST + b"body"
        if answer:
            await ends.send(ends.host, answer)
        else:
            ends.host.close()
        found = await ends.result()
        assert isinstance(found, Begun)
        assert (found.came, found.answer) == (POSTED + b"body", answer)
        assert ends.nothing_came(ends.guest)

    carry(story)


@pytest.mark.parametrize("said", [ANSWER + b"body", b""], ids=["an answer", "its end"])
def test_a_host_that_says_something_unasked_is_not_asked_again(carry: Carry, said: bytes) -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        if said:
            await ends.send(ends.host, said)
        else:
            ends.host.shutdown(socket.SHUT_WR)
        assert await ends.result() is None
        assert not ends.up.serves(("h", 80))
        assert ends.nothing_came(ends.guest)

    async def with_its_answer(ends: Ends) -> None:
        await ends.ask()
        await ends.send(ends.host, ANSWER + b"body" + ANSWER + b"evil")
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert await ends.result() is None
        assert not ends.up.serves(("h", 80))
        assert ends.nothing_came(ends.guest)

    carry(story)
    carry(with_its_answer)


def test_an_answer_that_is_there_before_the_request_is_none_to_it(carry: Carry) -> None:
    async def story(ends: Ends) -> None:
        assert await ends.result() == ASKED
        assert ends.nothing_came(ends.host)
        assert ends.nothing_came(ends.guest)
        assert not ends.up.serves(("h", 80))

    carry(story, early=(ASKED, ANSWER + b"evil"))


def test_a_host_that_rested_for_too_long_is_not_asked(carry: Carry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyisolate.egress.handed.KEPT_S", 0.0)

    async def story(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        assert await ends.result() == ASKED
        assert ends.nothing_came(ends.host)

    carry(story)


def test_what_is_over_a_limit_is_not_sent(carry: Carry) -> None:
    async def asked(ends: Ends) -> None:
        await ends.exchange()
        await ends.send(ends.guest, ASKED)
        with pytest.raises(OverLimit):
            await ends.result()
        assert ends.nothing_came(ends.host)
        assert ends.meter.carried.sent_bytes == len(SENT)

    async def received(ends: Ends) -> None:
        await ends.ask()
        await ends.send(ends.host, ANSWER + b"bo")
        assert await ends.receive(ends.guest, len(ONWARD) + 2) == ONWARD + b"bo"
        await ends.send(ends.host, b"dy")
        with pytest.raises(OverLimit, match="received"):
            await ends.result()
        assert ends.handed.begun  # no other answer can be given
        assert ends.nothing_came(ends.guest)

    carry(asked, EgressLimits(requests=1))
    carry(asked, EgressLimits(sent_bytes=len(SENT) + 1))
    carry(received, EgressLimits(received_bytes=len(ONWARD) + 3))


def test_under_another_policy_nothing_goes_on_either_way(carry: Carry) -> None:
    async def sent(ends: Ends) -> None:
        await ends.exchange()
        ends.meter.counts.renew()
        await ends.send(ends.guest, ASKED)
        await ends.result()
        assert ends.nothing_came(ends.host)

    async def received(ends: Ends) -> None:
        await ends.ask()
        ends.meter.counts.renew()
        await ends.send(ends.host, ANSWER + b"body")
        with pytest.raises(OSError, match="abort"):
            await ends.result()
        assert ends.nothing_came(ends.guest)

    carry(sent)
    carry(received)


def test_each_side_has_its_time(carry: Carry) -> None:
    async def silent(ends: Ends) -> None:
        with pytest.raises(TimeoutError):
            await ends.result()

    async def guest(ends: Ends) -> None:
        await ends.exchange()
        assert ends.expire(30, 0) > 20
        assert ends.expire(0, 30) == 0
        with pytest.raises(TimeoutError):
            await ends.result()
        assert ends.handed.asked is None

    async def host(ends: Ends) -> None:
        await ends.ask()
        assert ends.expire(0, 30) > 20
        assert ends.expire(30, 0) == 0
        with pytest.raises(TimeoutError):
            await ends.result()
        assert ends.handed.asked == GET
        assert not ends.handed.begun

    carry(silent, head_s=0.02)
    carry(guest)
    carry(host)


def test_a_slow_guest_gets_all_of_an_answer_and_then_asks_again(carry: Carry) -> None:
    body = os.urandom(65536)

    async def story(ends: Ends) -> None:
        for _ in range(3):
            await ends.ask()
            await ends.send(ends.host, LARGE + body)  # more than the guest's socket has room for
            assert await ends.receive(ends.guest, len(ONWARD) + len(body)) == ONWARD + body
        assert ends.meter.carried.received_bytes == 3 * (len(ONWARD) + len(body))

    carry(story)


def test_a_guest_that_goes_in_the_middle_and_one_that_is_given_up_leave_nothing_behind(carry: Carry) -> None:
    async def goes(ends: Ends) -> None:
        await ends.ask()
        ends.guest.close()
        await ends.send(ends.host, ANSWER + b"body")
        with pytest.raises(OSError, match="pipe"):
            await ends.result()

    async def given_up(ends: Ends) -> None:
        await ends.exchange()
        ends.done.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ends.result()
        await ends.send(ends.guest, ASKED)
        assert ends.nothing_came(ends.host)
        assert await ends.side.read(1 << 16) == ASKED  # whose loop reads it again

    carry(goes)
    carry(given_up)


@pytest.mark.parametrize("body", [b"key!", b"!key", b"kkey"])
def test_an_answer_in_which_a_credential_is_to_be_covered_is_the_tasks(carry: Carry, body: bytes) -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange(b"keep")  # the control: it only begins like one
        await ends.exchange(b"KEY!")
        await ends.ask()
        await ends.send(ends.host, ANSWER + body)
        found = await ends.result()
        assert isinstance(found, Begun)
        assert (found.came, found.answer) == (ASKED, ANSWER + body)
        assert ends.nothing_came(ends.guest)

    carry(story, hidden=[b"another", b"key"])


def test_an_answer_that_comes_in_parts_is_the_tasks_where_a_credential_may_be_cut_in_two(carry: Carry) -> None:
    async def hides(ends: Ends) -> None:
        await ends.exchange()
        await ends.ask()
        await ends.send(ends.host, ANSWER + b"ke")
        found = await ends.result()
        assert isinstance(found, Begun)
        assert found.answer == ANSWER + b"ke"
        assert ends.nothing_came(ends.guest)

    async def hides_nothing(ends: Ends) -> None:
        await ends.ask()
        await ends.send(ends.host, ANSWER + b"ke")
        assert await ends.receive(ends.guest, len(ONWARD) + 2) == ONWARD + b"ke"

    async def shows_no_more_than_the_answer(ends: Ends) -> None:
        await ends.ask()
        await ends.send(ends.host, ANSWER + b"bokey")  # past its end: none of it goes on
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"boke"
        assert await ends.result() is None
        assert ends.nothing_came(ends.guest)

    carry(hides, hidden=[b"key"])
    carry(hides_nothing)
    carry(shows_no_more_than_the_answer, hidden=[b"key"])
