"""What is known is carried as it comes; all else is left to the task that waits: nothing is lost or sent twice."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from pyisolate import Policy
from pyisolate.egress.connection import Services, serve
from pyisolate.egress.forward import Upstream
from pyisolate.egress.heads import Heads, KnownAnswer, KnownRequest
from pyisolate.egress.hiding import Hider
from pyisolate.egress.messages import Admit
from pyisolate.egress.meter import Meter, OverLimit
from pyisolate.egress.names import Names
from pyisolate.egress.shortcut import Begun, Shortcut
from pyisolate.egress.streams import Inlet, Plain
from pyisolate.egress.tenants import Tenants
from pyisolate.egress.turns import Turns
from pyisolate.egress.work import Work
from pyisolate.policy import compile_policy, secrets
from pyisolate.policy.compiled import EgressLimits
from pyisolate.policy.web import Request

ASKED, SENT = b"GET http://h/x HTTP/1.1\r\nHost: h\r\nSecret: p\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
ONWARD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
OTHER = b"GET http://h/y HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass
class Sides:
    """The guest's end, the host's end, and when what carries between them is done."""

    guest: socket.socket
    host: socket.socket
    up: Upstream
    meter: Meter
    done: asyncio.Task[bytes | Begun | None]

    async def send(self, sock: socket.socket, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)

    async def receive(self, sock: socket.socket, count: int) -> bytes:
        got = b""
        async with asyncio.timeout(5):
            while len(got) < count and (more := await asyncio.get_running_loop().sock_recv(sock, count - len(got))):
                got += more
        return got

    async def result(self) -> bytes | Begun | None:
        async with asyncio.timeout(5):
            return await self.done


@dataclass
class Ends(Sides):
    """With the shortcut between them."""

    shortcut: Shortcut


async def _stream(sock: socket.socket) -> tuple[Inlet, asyncio.StreamWriter]:
    inlet, loop = Inlet(), asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(inlet, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    return inlet, asyncio.StreamWriter(transport, protocol, inlet, loop)


@contextlib.asynccontextmanager
async def _ends(limits: EgressLimits, head_s: float, hider: Hider) -> AsyncIterator[Ends]:
    (guest, ours), (theirs, host) = socket.socketpair(), socket.socketpair()
    for sock in (guest, ours, theirs, host):
        sock.setblocking(False)
    (inlet, writer), (host_inlet, host_writer) = await _stream(ours), await _stream(theirs)
    known: Heads[KnownRequest] = Heads(4)
    known.put(ASKED, KnownRequest(Request("GET", "h", 80, "/x"), b"/x", SENT, 0))
    up, meter = Upstream(("h", 80), Plain(host_inlet, host_writer)), Meter()
    up.answers.put(ANSWER, KnownAnswer(ONWARD, 4))
    meter.limits = limits

    def find(data: bytes) -> KnownRequest | None:
        found = known.find(data)
        return found[0] if found is not None and not found[1] else None

    shortcut = Shortcut(Plain(inlet, writer), up, meter, find, hider, Turns(Work()))
    done = asyncio.ensure_future(shortcut.run(head_s))
    await asyncio.sleep(0)
    yield Ends(guest, host, up, meter, done, shortcut)
    done.cancel()
    await asyncio.gather(done, return_exceptions=True)
    for one in (writer, host_writer):
        one.close()
    guest.close(), host.close()
    await asyncio.sleep(0)


def carry(
    story: Callable[[Ends], Awaitable[None]],
    limits: EgressLimits | None = None,
    head_s: float = 30,
    hider: Hider | None = None,
) -> None:
    async def run() -> None:
        async with _ends(limits or EgressLimits(), head_s, hider or Hider()) as ends:
            await story(ends)

    asyncio.run(run())


async def _exchange(ends: Ends, body: bytes = b"body") -> None:
    await ends.send(ends.guest, ASKED)
    assert await ends.receive(ends.host, len(SENT)) == SENT
    await ends.send(ends.host, ANSWER + body)
    assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + body


def test_known_exchanges_are_carried_and_counted_and_what_else_comes_is_returned_whole() -> None:
    async def story(ends: Ends) -> None:
        await _exchange(ends)
        await _exchange(ends, b"BODY")
        carried = ends.meter.carried
        assert (carried.requests, carried.sent_bytes, carried.received_bytes) == (2, 2 * len(SENT), 2 * len(ONWARD) + 8)
        assert not ends.done.done()
        await ends.send(ends.guest, OTHER)
        assert await ends.result() == OTHER

    carry(story)


def test_an_answer_in_pieces_goes_on_as_it_comes_and_what_the_guest_sends_before_its_end_waits() -> None:
    async def story(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await ends.send(ends.host, ANSWER + b"bo")
        assert await ends.receive(ends.guest, len(ONWARD) + 2) == ONWARD + b"bo"
        await ends.send(ends.guest, ASKED)  # its turn comes after
        await asyncio.sleep(0.02)
        await ends.send(ends.host, b"dy")
        assert await ends.receive(ends.guest, 2) == b"dy"
        assert await ends.result() is None  # the task reads it
        assert ends.meter.carried.requests == 1
        ends.host.setblocking(False)
        with pytest.raises(BlockingIOError):
            ends.host.recv(1)

    carry(story)


def test_a_credential_in_pieces_of_an_answer_is_covered() -> None:
    stated = secrets.secret({"name": "api", "from": "env:A", "inject": "header:X-Key h/*"})
    hider = Hider([secrets.injection(stated, "0123456789")])
    head, piece = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nX-Sent: ", b"\r\n\r\nab0123"

    async def story(ends: Ends) -> None:
        for _ in range(2):  # read, then known
            await ends.send(ends.guest, ASKED)
            assert await ends.receive(ends.host, len(SENT)) == SENT
            await ends.send(ends.host, head + b"0123456789" + piece + b"456789" + b"01")
            got = await ends.receive(ends.guest, len(head) + 10 + len(piece) + 8)
            assert got == head + b"*" * 10 + b"\r\n\r\nab" + b"*" * 10 + b"01"
        await ends.send(ends.guest, ASKED)
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await ends.send(ends.host, head + b"0123456789" + piece)  # its end comes later
        assert (await ends.receive(ends.guest, len(head) + 10 + 6)).endswith(b"**\r\n\r\nab")
        await ends.send(ends.host, b"45678")
        await asyncio.sleep(0.02)
        await ends.send(ends.host, b"901")
        assert await ends.receive(ends.guest, 12) == b"*" * 10 + b"01"
        assert not ends.done.done()

    carry(story, hider=hider)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbo", b"HTTP/1.1 2", b"nonsense"])
def test_an_unknown_answer_is_the_tasks(answer: bytes) -> None:
    async def story(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await ends.send(ends.host, answer)
        found = await ends.result()
        assert isinstance(found, Begun)
        assert (found.came, found.answer) == (ASKED, answer)

    carry(story)


def test_a_whole_answer_with_another_head_is_read_and_known_from_then_on() -> None:
    async def story(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await ends.send(ends.host, b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nDate: now\r\n\r\nno")
        assert (await ends.receive(ends.guest, 40)).startswith(b"HTTP/1.1 404 No\r\n")
        assert not ends.done.done()

    carry(story)


@pytest.mark.parametrize("said", [b"x", b""])
def test_a_host_that_speaks_unasked_or_ends_is_not_asked_again(said: bytes) -> None:
    async def story(ends: Ends) -> None:
        await _exchange(ends)
        if said:
            await ends.send(ends.host, said)
        else:
            ends.host.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.02)
        await ends.send(ends.guest, ASKED)
        assert await ends.result() == ASKED
        assert not ends.up.serves(("h", 80))

    carry(story)


def test_what_is_over_a_limit_is_not_sent() -> None:
    async def story(ends: Ends) -> None:
        await _exchange(ends)
        await ends.send(ends.guest, ASKED)
        with pytest.raises(OverLimit, match="requests"):
            await ends.result()

    async def received(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        await ends.send(ends.host, ANSWER + b"bo")
        assert await ends.receive(ends.guest, len(ONWARD) + 2) == ONWARD + b"bo"
        await ends.send(ends.host, b"dy")
        with pytest.raises(OverLimit, match="received"):
            await ends.result()
        assert ends.shortcut.begun  # no other answer can be given

    carry(story, EgressLimits(requests=1))
    carry(received, EgressLimits(received_bytes=len(ONWARD) + 3))


def test_a_guest_that_says_no_more_and_one_that_ends_are_the_tasks() -> None:
    async def silent(ends: Ends) -> None:
        await _exchange(ends)
        with pytest.raises(TimeoutError):
            await ends.result()

    async def ended(ends: Ends) -> None:
        await ends.send(ends.guest, ASKED)
        ends.guest.shutdown(socket.SHUT_WR)
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await ends.send(ends.host, ANSWER + b"body")
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert await ends.result() is None

    carry(silent, head_s=0.05)
    carry(ended)


async def _asked_of_a_host_that_falls_silent(answered: int) -> list[bytes]:
    """Return the heads that a guest is answered with, up to the one after the host's last."""
    loop = asyncio.get_running_loop()

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            for _ in range(answered):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWER + b"body")
            await reader.read()

    async def report(message: object) -> None:
        raise AssertionError(message)

    server = await asyncio.start_server(host, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    policy = Policy.preset("none").allow_connect(f"127.0.0.1:{port}").allow_http(f"GET h.example:{port}/*")
    compiled = compile_policy(policy, resolve=lambda _host: ["127.0.0.1"])
    tenants = Tenants(report)
    tenants.admit(Admit(key="k", token="t", policy=compiled))
    guest, ours = socket.socketpair()
    guest.setblocking(False)
    stream = await _stream(ours)
    served = asyncio.ensure_future(serve(Services(tenants, Names({"h.example": ("127.0.0.1",)}), None), *stream))
    login = base64.b64encode(b"u:t").decode()
    asked = f"GET http://h.example:{port}/x HTTP/1.1\r\nHost: h.example:{port}\r\n"
    asked += f"Proxy-Authorization: Basic {login}\r\n\r\n"
    heads = []
    async with asyncio.timeout(5):
        for _ in range(answered + 1):
            await loop.sock_sendall(guest, asked.encode())
            heads.append((await loop.sock_recv(guest, 1 << 16)).partition(b"\r\n")[0])
    guest.close()
    await served
    server.close()
    await asyncio.sleep(0)
    return heads


@pytest.mark.parametrize("answered", [0, 1], ids=["the task", "the shortcut"])
def test_a_host_that_falls_silent_is_answered_for_alike(answered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyisolate.egress.connection.HEAD_S", 0.4)  # as often the shortcut looks at its clock
    monkeypatch.setattr("pyisolate.egress.forward.IDLE_S", 0.05)
    monkeypatch.setattr("pyisolate.egress.shortcut.IDLE_S", 0.05)
    heads = asyncio.run(_asked_of_a_host_that_falls_silent(answered))
    assert heads[:-1] == [b"HTTP/1.1 200 OK"] * answered
    assert heads[-1].startswith(b"HTTP/1.1 502 ")
    assert b"h.example broke off (" in heads[-1]
    assert not heads[-1].endswith(b"()")
