"""Bytes that are to end the egress proxy, be read in two ways, or keep others waiting: refused, and others served."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pyisolate.decision import DenialCode
from tests.host.egress_world import OWN_PROXY, World, one_world

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_GUEST = (
    OWN_PROXY
    + """
import http.client, socket
kept = http.client.HTTPConnection("127.0.0.1", port)
def ask(url, host):
    kept.request("GET", url, headers={"Host": host, **dict([login.strip().split(": ")])})
    answer = kept.getresponse()
    return answer.status, len(answer.read()), id(kept.sock)
def send(first, rest="", end=False, known=None):
    sock = socket.create_connection(("127.0.0.1", port), 20)
    for _ in range(6 if known else 0):  # so often that the last ones are carried as known
        sock.sendall(f"{known}{login}\\r\\n".encode())
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        if (answer.status, answer.read()[:4]) != (200, b"GET "):
            raise OSError("not answered as ever")
    sock.sendall(f"{first}\\r\\n{login}{rest}".encode("latin-1"))
    if end:
        sock.shutdown(socket.SHUT_WR)
    return sock
def status(first, rest="", end=False, known=None):
    with send(first, rest, end, known) as sock:
        got = b""
        while more := sock.recv(1 << 16):
            got += more
    return [int(line.split()[1]) for line in got.split(b"\\r\\n") if line.startswith(b"HTTP/1.")]
"""
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with one_world() as made:
        yield made


def test_hostile_bytes_are_refused_with_an_event_each_and_others_are_served(world: World) -> None:
    """The other sandbox keeps one connection all the while: a proxy that ended would have broken it."""
    target, host = f"{world.granted} HTTP/1.1", f"Host: {world.place}\r\n"
    taken = f"GET http://{world.place}/taken HTTP/1.1\r\n{host}\r\n"
    folded = "Transfer-Encoding:\r\n chunked"
    hostile = {
        "a long method": (f"{'A' * 2001} {target}", f"{host}\r\n"),
        "a line without an end": (f"GET {target}", "X: " + "x" * 70_000),
        "a flood of headers": (f"GET {target}", host + "X: x\r\n" * 20_000),
        "HTTP/2 by prior knowledge": ("PRI * HTTP/2.0", "\r\nSM\r\n\r\n"),
        "a websocket": (f"GET {target}", f"{host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        "a space before the colon": (f"GET {target}", f"Host : {world.place}\r\n\r\n"),
        "a folded header": (f"POST {target}", f"{host}{folded}\r\nContent-Length: 4\r\n\r\n{taken}"),
        "two lengths": (f"POST {target}", f"{host}Content-Length: 4\r\nContent-Length: 5\r\n\r\n{taken}"),
        "a signed length": (f"POST {target}", f"{host}Content-Length: +4\r\n\r\n{taken}"),
        "an unknown coding": (f"POST {target}", f"{host}Transfer-Encoding: xchunked\r\n\r\n{taken}"),
        "another path in a header": (f"GET {target}", f"{host}X-Original-URL: /v2/x\r\n\r\n"),
        "a body that is none": (f"POST {target}", f"{host}Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n"),
        "a line feed in the target": (f"GET {world.granted}\nX: HTTP/1.1", f"{host}\r\n"),
    }  # fmt: skip
    with (
        world.supervisor.spawn("other", world.policy) as other,
        world.supervisor.spawn("hostile", world.policy) as sandbox,
    ):
        other.exec(_GUEST)
        sandbox.exec(_GUEST)
        before = other.eval(f"ask({world.granted!r}, {world.place!r})")
        assert before[0] == 200
        for (what, (first, rest)), before_it in itertools.product(hostile.items(), (None, f"GET {target}\r\n{host}")):
            known = sandbox.stats.denials
            said = sandbox.eval(f"status({first!r}, {rest!r}, True, {before_it!r})")
            assert said, what
            assert all(400 <= status < 600 for status in said), (what, said)
            sandbox.exec("")
            assert sandbox.stats.denials == known + 1, what
        assert sandbox.eval(f"status('GET {target}', {host + chr(13) + chr(10)!r}, True)") == [200]  # half-closed
        known, less = sandbox.stats.denials, f"{host}Content-Length: 9\r\n\r\nless"
        # it went away, and was refused nothing
        assert sandbox.eval(f"status('POST {target}', {less!r}, True)") == [502]
        sandbox.exec("")
        assert sandbox.stats.denials == known
        assert other.eval(f"ask({world.granted!r}, {world.place!r})") == before
    assert not [path for path in world.plain.seen if "taken" in path]


def test_what_a_rule_denies_is_denied_however_a_lenient_host_is_asked_for_it(world: World) -> None:
    place, before = world.place, len(world.plain.seen)
    policy = world.policy.deny_http(f"DELETE {place}/v1/*").deny_http(f"* {place}/v1/admin*")
    host = f"Host: {place}\r\nConnection: close\r\n"
    denied = {
        ("delete", "x", ""): "delete",
        ("POST", "x", "X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n"): "DELETE",
        ("GET", "ADMIN/x", ""): "GET",
        ("GET", "%61dmin", ""): "GET",
    }
    with world.supervisor.spawn("denied", policy) as sandbox:
        sandbox.exec(_GUEST)
        get = "X-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n"
        assert sandbox.eval(f"status('POST {world.granted} HTTP/1.1', {host + get + chr(13) + chr(10)!r})") == [200]
        for (method, path, more), named in denied.items():
            line = f"{method} http://{place}/v1/{path} HTTP/1.1"
            assert sandbox.eval(f"status({line!r}, {host + more + chr(13) + chr(10)!r})") == [403], line
            sandbox.exec("")
            event = sandbox.get_denial_events()[-1]
            assert (event.target, event.code) == (f"{named} {place}/v1/{path}", DenialCode.EXPLICIT_DENY)
    assert len(world.plain.seen) == before + 1


def test_slow_bodies_and_many_connections_keep_nobody_else_waiting(world: World) -> None:
    slow = f"Host: {world.place}\r\nContent-Length: 100\r\n\r\nx"
    with (
        world.supervisor.spawn("other", world.policy) as other,
        world.supervisor.spawn("slow", world.policy) as sandbox,
    ):
        other.exec(_GUEST)
        sandbox.exec(_GUEST)
        sandbox.exec(f"held = [send('POST {world.granted} HTTP/1.1', {slow!r}) for _ in range(32)]")
        said = sandbox.eval(f"status('GET {world.granted} HTTP/1.1', 'Host: {world.place}\\r\\n\\r\\n')")
        assert said == [429]
        sandbox.exec("")
        assert [event.target for event in sandbox.get_denial_events()] == ["egress connections"]
        assert other.eval(f"ask({world.granted!r}, {world.place!r})")[0] == 200
        sandbox.exec("for one in held: one.close()")
        assert other.eval(f"ask({world.granted!r}, {world.place!r})")[0] == 200
