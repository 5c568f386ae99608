"""Known exchanges in an opened tunnel, carried in C: what TLS says for itself, where it ends, what else is done."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import pytest

from pyisolate import Policy
from pyisolate.egress import over_tls
from pyisolate.egress.authority import Issuer
from pyisolate.egress.connection import Services, serve
from pyisolate.egress.forward import Upstream
from pyisolate.egress.handed import Handed
from pyisolate.egress.heads import KnownAnswer
from pyisolate.egress.hiding import Hider
from pyisolate.egress.messages import Admit, Refused
from pyisolate.egress.meter import Meter
from pyisolate.egress.names import Names
from pyisolate.egress.shortcut import Begun
from pyisolate.egress.streams import Plain
from pyisolate.egress.tenants import Tenants
from pyisolate.egress.tunnel import Carrier
from pyisolate.egress.waiting import Waiting, run
from pyisolate.native.tunnels import Known, Tunnels
from pyisolate.policy import compile_policy, secrets
from tests.unit.egress_peer import Peer
from tests.unit.test_egress_handed import HOST, REQUESTS, Ends, agreed, authority, carry_over
from tests.unit.test_egress_shortcut import ANSWER, ASKED, ONWARD, OTHER, SENT, _stream

pytest.importorskip("cryptography")
carry = carry_over(Waiting)
_FORGED = b"\x17\x03\x03\x00\x20" + bytes(32)  # a record that nobody has sealed


class _Opened(Protocol):
    async def open(self) -> None: ...
    async def close(self) -> None: ...


_O = TypeVar("_O", bound=_Opened)


def _tell(one: _O, story: Callable[[_O], Awaitable[None]], waits: Waiting | None) -> None:
    """Open what a story is about, have it happen, and close that."""

    async def tell() -> None:
        async with asyncio.timeout(20):
            await one.open()
            try:
                await story(one)
            finally:
                await one.close()

    run(tell(), waits)


async def _raw(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def _in_parts(sock: socket.socket, data: bytes) -> None:
    for part in (data[:3], data[3:20], data[20:]):
        await _raw(sock, part)
        await asyncio.sleep(0.01)


def test_what_tls_says_for_itself_is_no_word_of_a_host_that_rests() -> None:
    async def story(ends: Ends) -> None:
        tickets = ends.peers[ends.host].said()  # of TLS 1.3, after the handshake
        assert tickets
        await _raw(ends.host, tickets)
        await asyncio.sleep(0.01)
        await ends.exchange()
        assert not ends.done.done()
        assert ends.up.serves(("h", 80))
        await _raw(ends.host, ends.peers[ends.host].records(b"unasked"))  # the control
        assert await ends.result() is None
        assert not ends.up.serves(("h", 80))

    async def between(ends: Ends) -> None:
        await ends.ask()
        tickets = ends.peers[ends.host].said()
        await _raw(ends.host, tickets)
        await ends.send(ends.host, ANSWER + b"body")
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert not ends.done.done()

    carry(story)
    carry(between)


def test_records_that_come_in_parts_are_whole_requests_and_answers() -> None:
    async def story(ends: Ends) -> None:
        for _ in range(2):
            await _in_parts(ends.guest, ends.peers[ends.guest].records(ASKED))
            assert await ends.receive(ends.host, len(SENT)) == SENT
            await _in_parts(ends.host, ends.peers[ends.host].records(ANSWER + b"body"))
            assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert ends.meter.carried.requests == 2
        part = ends.peers[ends.guest].records(OTHER)
        await _raw(ends.guest, part[:9])
        await asyncio.sleep(0.01)
        ends.done.cancel()  # with a part of a record in OpenSSL: the task reads on
        with pytest.raises(asyncio.CancelledError):
            await ends.result()
        await _raw(ends.guest, part[9:])
        assert await ends.side.read(1 << 16) == OTHER

    carry(story)


def test_a_request_in_several_records_is_one() -> None:
    async def story(ends: Ends) -> None:
        peer = ends.peers[ends.guest]
        await _raw(ends.guest, peer.records(ASKED[:20], ASKED[20:]))
        assert await ends.receive(ends.host, len(SENT)) == SENT
        await _raw(ends.host, ends.peers[ends.host].records(ANSWER, b"bo", b"dy"))
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        await _raw(ends.guest, peer.records(ASKED, b"G"))
        assert await ends.result() == ASKED + b"G"
        assert ends.nothing_came(ends.host)

    carry(story)


def test_a_guest_that_says_its_last_word_is_the_tasks() -> None:
    async def behind(ends: Ends) -> None:
        peer = ends.peers[ends.guest]
        await _raw(ends.guest, peer.records(ASKED) + peer.farewell())
        assert await ends.result() == ASKED
        assert ends.nothing_came(ends.host)
        assert not ends.side.rests()  # though its socket stays open
        assert await ends.side.read(9) == b""

    async def alone(ends: Ends) -> None:
        await ends.exchange()
        assert ends.side.rests()
        await _raw(ends.guest, ends.peers[ends.guest].farewell())
        assert await ends.result() is None
        assert not ends.side.rests()

    carry(behind)
    carry(alone)


def test_what_another_one_puts_in_the_place_of_a_request_or_an_answer_goes_nowhere() -> None:
    async def of_guest(ends: Ends) -> None:
        await ends.exchange()
        await _raw(ends.guest, _FORGED)
        assert await ends.result() is None
        assert ends.nothing_came(ends.host)
        assert not ends.side.rests()
        assert await ends.side.read(1 << 16) == b""  # the task meets the end

    async def of_host(ends: Ends) -> None:
        await ends.ask()
        await _raw(ends.host, _FORGED)
        found = await ends.result()
        assert isinstance(found, Begun)
        assert (found.came, found.answer) == (ASKED, b"")
        assert ends.nothing_came(ends.guest)
        assert not ends.up.side.rests()

    async def of_host_that_rests(ends: Ends) -> None:
        await ends.exchange()
        await _raw(ends.host, _FORGED)
        assert await ends.result() is None
        assert not ends.up.serves(("h", 80))

    for story in (of_guest, of_host, of_host_that_rests):
        carry(story)


def test_a_host_whose_tls_ends_is_not_waited_for_and_not_asked_again() -> None:
    async def behind_its_answer(ends: Ends) -> None:
        await ends.ask()
        peer = ends.peers[ends.host]
        await _raw(ends.host, peer.records(ANSWER + b"body") + peer.farewell())
        assert await ends.receive(ends.guest, len(ONWARD) + 4) == ONWARD + b"body"
        assert await ends.result() is None
        assert not ends.up.serves(("h", 80))

    async def in_the_middle(ends: Ends) -> None:
        await ends.ask()
        peer = ends.peers[ends.host]
        await _raw(ends.host, peer.records(ANSWER + b"bo") + peer.farewell())
        with pytest.raises(ConnectionAbortedError):
            await ends.result()
        assert ends.handed.begun

    carry(behind_its_answer)
    carry(in_the_middle)


def test_the_loop_serves_others_while_exchanges_are_carried() -> None:
    async def story(ends: Ends) -> None:
        loop, times, woken = asyncio.get_running_loop(), list[int](), asyncio.Event()
        one, other = socket.socketpair()
        one.setblocking(False), other.setblocking(False)
        loop.add_signal_handler(signal.SIGUSR1, woken.set)
        for turn in range(3):
            loop.call_later(0.001, times.append, turn)
            await ends.exchange()
            threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set,)).start()
            async with asyncio.timeout(5):
                await woken.wait()
                woken.clear()
                signal.raise_signal(signal.SIGUSR1)
                await woken.wait()
                woken.clear()
                await loop.sock_sendall(other, b"others")
                assert await loop.sock_recv(one, 6) == b"others"
                while turn not in times:
                    await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGUSR1)
        one.close(), other.close()
        assert ends.meter.carried.requests == 3
        assert ends.meter.counts.spent_s() > 0

    carry(story)


def test_in_each_pass_each_sandbox_begins_one_exchange_however_many_connections_it_has() -> None:
    async def run() -> None:
        one, other = socket.socketpair()
        tunnels = Tunnels(60, one.fileno())
        meters, kept = {"many": Meter(), "one": Meter()}, list[socket.socket | Plain]()
        for name, count in (("many", 3), ("one", 1)):
            for _ in range(count):
                (guest, ours), (theirs, host) = socket.socketpair(), socket.socketpair()
                for sock in (guest, ours, theirs, host):
                    sock.setblocking(False)
                plain = [Plain(*await _stream(sock)) for sock in (ours, theirs)]
                asks, _, side, up = await agreed(guest, plain[0], plain[1], host)
                for below in plain:
                    below.transport.pause_reading()
                requests = [Known(head, known.onward, known.body_bytes) for head, known in REQUESTS]
                tls = (side.engine, up.engine)
                tunnels.exchange(ours.fileno(), theirs.fileno(), meters[name].counts, requests, [], 4000, tls)
                guest.send(asks.records(ASKED))
                kept += [guest, host, *plain]
        passes = []
        for _ in range(4):
            assert not tunnels.turn(0)
            passes.append(tuple(meter.carried.requests for meter in meters.values()))
        assert passes == [(1, 1), (2, 1), (3, 1), (3, 1)]
        other.send(b"x")
        assert tunnels.turn(None)  # what else is watched is ready
        tunnels.close()
        for end in (*kept, one, other):
            end.close()
        await asyncio.sleep(0)

    asyncio.run(run())


class _Client:
    """openssl s_client in a tunnel whose exchanges are carried: it takes commands."""

    def __init__(self, waits: Waiting, *options: str) -> None:
        self._waits, self._options = waits, options

    async def open(self) -> None:
        loop, listener = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        theirs, self._host = socket.socketpair()
        theirs.setblocking(False), self._host.setblocking(False)
        place, pipe, joined = (
            f"127.0.0.1:{listener.getsockname()[1]}",
            asyncio.subprocess.PIPE,
            asyncio.subprocess.STDOUT,
        )
        command = ["openssl", "s_client", "-connect", place, "-servername", HOST, *self._options]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=joined)
        with listener:
            accepted, _ = await loop.sock_accept(listener)
        certificate = Issuer(authority()).context(HOST)
        self._side = await over_tls.to_guest(Plain(*await _stream(accepted)), certificate, b"")
        self._up, self._carrier = Upstream(("h", 80), Plain(*await _stream(theirs))), Carrier(self._waits)
        self._up.answers.put(ANSWER, KnownAnswer(ONWARD, 4))
        handed = Handed(self._carrier, self._side, self._up, Meter(), REQUESTS, Hider())
        self.done = asyncio.ensure_future(handed.run(30))

    async def exchange(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.command(ASKED)
        assert await loop.sock_recv(self._host, 1 << 16) == SENT
        await loop.sock_sendall(self._host, ANSWER + body)
        await self.says(body)

    def command(self, text: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)

    async def says(self, text: bytes) -> None:
        assert self._process.stdout is not None
        await self._process.stdout.readuntil(text)

    async def close(self) -> None:
        self.done.cancel()
        await asyncio.gather(self.done, return_exceptions=True)
        self._carrier.close()
        self._side.close(), self._up.close(), self._host.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()
        await asyncio.sleep(0)


def _with_client(story: Callable[[_Client], Awaitable[None]], *options: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    waits = Waiting()
    _tell(_Client(waits, *options), story, waits)


def test_a_guest_may_change_its_keys_and_have_the_proxy_change_its_own() -> None:
    async def story(client: _Client) -> None:
        for body in (b"one!", b"two!", b"six!"):
            await client.exchange(body)  # under new keys of both, but for the first
            client.command(b"K\n")
            await client.says(b"KEYUPDATE")
        assert not client.done.done()

    _with_client(story, "-tls1_3")


def test_a_guest_that_wants_another_handshake_is_told_no_at_once() -> None:
    async def story(client: _Client) -> None:
        await client.exchange(b"body")
        client.command(b"R\n")
        await client.says(b"RENEGOTIATING")
        await client.says(b"renegotiation")  # the error by which it ends
        assert await client.done is None

    _with_client(story, "-tls1_2")


def _whole(answer: bytes) -> int:
    """Return how long an answer is, of which there is a part."""
    head, blank, _ = answer.partition(b"\r\n\r\n")
    stated = re.search(rb"(?i)content-length: ([0-9]+)", head)
    return len(head + blank) + int(stated[1]) if blank and stated else len(answer) + 1


class _World:
    """A guest inside of a tunnel that the proxy has opened to a host that answers all alike."""

    def __init__(self, waits: Waiting | None, key: str = "") -> None:
        """`key`: the proxy puts it into requests, and covers it in answers."""
        self._waits, self._key, self.reports, self.asked = waits, key, list[object](), list[bytes]()
        self.keys, self.body = list[bytes](), b"body"

    async def _report(self, message: object) -> None:
        self.reports.append(message)

    async def _host(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head.split(b" ")[1])
                self.keys += re.findall(rb"(?i)x-key: ([^\r]+)", head)
                writer.write(ANSWER.replace(b"4", b"%d" % len(self.body)) + self.body)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        context = Issuer(authority()).context(HOST)
        self._server = await asyncio.start_server(self._host, "127.0.0.1", 0, ssl=context)
        place = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"
        policy = Policy.preset("none").allow_connect(place.replace(HOST, "127.0.0.1"))
        policy = policy.allow_http(f"GET https://{place}/v1/*").with_egress(inspect_tls=True)
        compiled = compile_policy(policy, resolve=lambda _host: ["127.0.0.1"])
        self.tenants = Tenants(self._report)
        stated = secrets.secret({"name": "api", "from": "env:A", "inject": f"header:X-Key https://{place}/v1/*"})
        given = (secrets.injection(stated, self._key),) if self._key else ()
        self.tenants.admit(Admit(key="k", token="t", policy=compiled, secrets=given, authority=authority()))
        self.meter = next(iter(self.tenants._known.values())).meter
        names = Names({HOST: ("127.0.0.1",)})
        self.services = Services(self.tenants, names, authority().certificate, self._waits)
        self.guest, ours = socket.socketpair()
        self.guest.setblocking(False)
        self.served = asyncio.ensure_future(serve(self.services, *await _stream(ours)))
        login = base64.b64encode(b"u:t").decode()
        asked = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic {login}\r\n\r\n"
        await _raw(self.guest, asked.encode())
        assert (await loop.sock_recv(self.guest, 1 << 16)).startswith(b"HTTP/1.1 200 ")
        self.peer = Peer(self.guest, ssl.create_default_context(cadata=authority().certificate), HOST)
        await self.peer.agree()
        self._place = place

    async def ask(self, path: str) -> bytes:
        await _raw(self.guest, self.peer.records(f"GET {path} HTTP/1.1\r\nHost: {self._place}\r\n\r\n".encode()))
        got = b""
        while len(got) < _whole(got):
            got += await self.peer.receive()
        return got

    async def close(self) -> None:
        self.guest.close()
        await asyncio.gather(self.served, return_exceptions=True)
        self.services.carrier.close()
        self._server.close()
        await asyncio.sleep(0.01)


def _in_a_world(story: Callable[[_World], Awaitable[None]], waits: Waiting | None, key: str = "") -> None:
    _tell(_World(waits, key), story, waits)


@pytest.mark.parametrize("by_c", [True, False], ids=["carried in C", "the control"])
def test_what_follows_known_exchanges_in_an_opened_tunnel_is_decided_as_ever(by_c: bool) -> None:
    async def story(world: _World) -> None:
        for _ in range(12):
            assert (await world.ask("/v1/x")).startswith(b"HTTP/1.1 200 ")
        assert (world.meter.counts.spent_s() > 0) is by_c
        assert (await world.ask("/v1/y")).startswith(b"HTTP/1.1 200 ")
        assert (await world.ask("/v1/x")).startswith(b"HTTP/1.1 200 ")
        assert world.reports == []
        assert (await world.ask("/v2/x")).startswith(b"HTTP/1.1 403 ")
        (said,) = world.reports
        assert isinstance(said, Refused)
        assert said.record.target.endswith("/v2/x")
        assert world.asked == [b"/v1/x"] * 12 + [b"/v1/y", b"/v1/x"]
        assert world.meter.carried.requests == 14

    _in_a_world(story, Waiting() if by_c else None)


def test_a_sandbox_that_is_dismissed_has_nothing_carried_any_more() -> None:
    async def story(world: _World) -> None:
        for _ in range(12):
            assert (await world.ask("/v1/x")).startswith(b"HTTP/1.1 200 ")
        assert world.meter.counts.spent_s() > 0
        await _raw(world.guest, world.peer.records(b"GET /v1/x HTTP/1.1\r\n\r\n"))
        world.tenants.dismiss("k")
        await asyncio.gather(world.served, return_exceptions=True)
        assert len(world.asked) == 12

    _in_a_world(story, Waiting())


def test_a_credential_is_put_into_what_c_carries_and_covered_in_what_it_gives_back() -> None:
    key = "sk-0123456789"

    async def story(world: _World) -> None:
        for body in (b"-" * len(key), key.encode(), b"=" * len(key)):
            world.body = body
            shown = body.replace(key.encode(), b"*" * len(key))
            before = world.meter.counts.spent_s()
            for _ in range(12):
                assert (await world.ask("/v1/x")).endswith(b"\r\n\r\n" + shown)
            assert world.meter.counts.spent_s() > before
        assert world.keys == [key.encode()] * 36

    _in_a_world(story, Waiting(), key)
