"""What the tunnels' thread carries of known exchanges: nothing but what is known, one at a time, all of it counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from pyisolate.egress.forward import Upstream
from pyisolate.egress.handed import Handed
from pyisolate.egress.heads import KnownAnswer, KnownRequest
from pyisolate.egress.meter import Meter, OverLimit
from pyisolate.egress.shortcut import Begun
from pyisolate.egress.streams import Inlet, Plain
from pyisolate.egress.tunnel import Carrier
from pyisolate.policy.compiled import EgressLimits
from pyisolate.policy.web import Request
from tests.unit.test_egress_shortcut import ANSWER, ASKED, ONWARD, OTHER, SENT, Sides, _stream

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
    """With the tunnels' thread between them."""

    inlet: Inlet
    carrier: Carrier
    handed: Handed

    async def ask(self) -> None:
        await self.send(self.guest, ASKED)
        assert await self.receive(self.host, len(SENT)) == SENT

    async def exchange(self, body: bytes = b"body") -> None:
        await self.ask()
        await self.send(self.host, ANSWER + body)
        assert await self.receive(self.guest, len(ONWARD) + 4) == ONWARD + body

    def nothing_came(self, sock: socket.socket) -> bool:
        try:
            return not sock.recv(1)
        except (BlockingIOError, ConnectionResetError):  # reset: it was closed with bytes unread
            return True


@contextlib.asynccontextmanager
async def _ends(limits: EgressLimits, head_s: float, early: tuple[bytes, bytes]) -> AsyncIterator[Ends]:
    (guest, ours), (theirs, host) = socket.socketpair(), socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for sock in (guest, ours, theirs, host):
        sock.setblocking(False)
    (inlet, writer), (host_inlet, host_writer) = await _stream(ours), await _stream(theirs)
    up, meter, carrier = Upstream(("h", 80), Plain(host_inlet, host_writer)), Meter(), Carrier()
    up.answers.put(ANSWER, KnownAnswer(ONWARD, 4))
    up.answers.put(LARGE, KnownAnswer(ONWARD, 65536))
    meter.limits = limits
    handed = Handed(carrier, Plain(inlet, writer), up, meter, REQUESTS)
    guest.send(early[0]), host.send(early[1])  # the thread finds both
    done = asyncio.ensure_future(handed.run(head_s))
    await asyncio.sleep(0)
    yield Ends(guest, host, up, meter, done, inlet, carrier, handed)
    done.cancel()
    await asyncio.gather(done, return_exceptions=True)
    carrier.close()
    for one in (writer, host_writer):
        one.close()
    guest.close(), host.close()
    await asyncio.sleep(0)


def carry(
    story: Callable[[Ends], Awaitable[None]],
    limits: EgressLimits | None = None,
    head_s: float = 30,
    early: tuple[bytes, bytes] = (b"", b""),
) -> None:
    async def run() -> None:
        async with _ends(limits or EgressLimits(), head_s, early) as ends:
            await story(ends)

    asyncio.run(run())


def test_known_exchanges_are_counted_and_what_else_comes_is_given_back_whole() -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        await ends.exchange(b"BODY")
        carried = ends.meter.carried
        assert (carried.requests, carried.sent_bytes, carried.received_bytes) == (2, 2 * len(SENT), 2 * len(ONWARD) + 8)
        assert ends.meter.counts.spent_s() > 0  # by the thread
        assert not ends.done.done()
        await ends.send(ends.guest, OTHER)
        assert await ends.result() == OTHER
        assert ends.up.serves(("h", 80))
        await ends.send(ends.guest, b"more")
        assert await ends.inlet.read(4) == b"more"  # the task reads on

    carry(story)


def test_a_body_of_the_stated_length_goes_on_behind_its_head() -> None:
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
def test_nothing_of_what_is_not_just_one_known_request_goes_on(asked: bytes) -> None:
    async def story(ends: Ends) -> None:
        await ends.exchange()
        await ends.send(ends.guest, asked)
        assert await ends.result() == asked
        assert ends.nothing_came(ends.host)
        assert ends.meter.carried.requests == 1

    carry(story)


def test_what_the_guest_says_before_its_turn_waits_for_the_end_of_the_answer() -> None:
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
def test_an_unknown_answer_is_the_tasks(answer: bytes) -> None:
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
def test_a_host_that_says_something_unasked_is_not_asked_again(said: bytes) -> None:
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


def test_an_answer_that_is_there_before_the_request_is_none_to_it() -> None:
    async def story(ends: Ends) -> None:
        assert await ends.result() == ASKED
        assert ends.nothing_came(ends.host)
        assert ends.nothing_came(ends.guest)
        assert not ends.up.serves(("h", 80))

    carry(story, early=(ASKED, ANSWER + b"evil"))


def test_a_host_that_rested_for_too_long_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyisolate.egress.handed.KEPT_S", 0.0)

    async def story(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        assert await ends.result() == ASKED
        assert ends.nothing_came(ends.host)

    carry(story)


def test_what_is_over_a_limit_is_not_sent() -> None:
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


def test_under_another_policy_nothing_goes_on_either_way() -> None:
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


def test_each_side_has_its_time() -> None:
    async def silent(ends: Ends) -> None:
        with pytest.raises(TimeoutError):
            await ends.result()

    async def guest(ends: Ends) -> None:
        await ends.exchange()
        assert ends.carrier.tunnels.expire(1, 30, 0) > 20
        assert ends.carrier.tunnels.expire(1, 0, 30) == 0
        with pytest.raises(TimeoutError):
            await ends.result()
        assert ends.handed.asked is None

    async def host(ends: Ends) -> None:
        await ends.ask()
        assert ends.carrier.tunnels.expire(1, 0, 30) > 20
        assert ends.carrier.tunnels.expire(1, 30, 0) == 0
        with pytest.raises(TimeoutError):
            await ends.result()
        assert ends.handed.asked == GET
        assert not ends.handed.begun

    carry(silent, head_s=0.02)
    carry(guest)
    carry(host)


def test_a_slow_guest_gets_all_of_an_answer_and_then_asks_again() -> None:
    body = os.urandom(65536)

    async def story(ends: Ends) -> None:
        for _ in range(3):
            await ends.ask()
            await ends.send(ends.host, LARGE + body)  # more than the guest's socket has room for
            assert await ends.receive(ends.guest, len(ONWARD) + len(body)) == ONWARD + body
        assert ends.meter.carried.received_bytes == 3 * (len(ONWARD) + len(body))

    carry(story)


def test_a_guest_that_goes_in_the_middle_and_one_that_is_given_up_leave_nothing_behind() -> None:
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
        assert await ends.inlet.read(1 << 16) == ASKED  # whose loop reads it again

    carry(goes)
    carry(given_up)
