"""Bytes that are to end the egress proxy, be read in two ways, or keep others waiting: refused, and others served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.egress_world import World, one_world

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_GUEST = """
import base64, http.client, os, socket
password, _, address = os.environ["HTTP_PROXY"].removeprefix("http://").partition("@")
port = int(address.rpartition(":")[2])
login = "Proxy-Authorization: Basic " + base64.b64encode(password.encode()).decode() + "\\r\\n"
kept = http.client.HTTPConnection("127.0.0.1", port)
def ask(url, host):
    kept.request("GET", url, headers={"Host": host, **dict([login.strip().split(": ")])})
    answer = kept.getresponse()
    return answer.status, len(answer.read()), id(kept.sock)
def send(first, rest="", end=False):
    sock = socket.create_connection(("127.0.0.1", port), 20)
    sock.sendall(f"{first}\\r\\n{login}{rest}".encode("latin-1"))
    if end:
        sock.shutdown(socket.SHUT_WR)
    return sock
def status(first, rest="", end=False):
    with send(first, rest, end) as sock:
        got = b""
        while more := sock.recv(1 << 16):
            got += more
    return [int(line.split()[1]) for line in got.split(b"\\r\\n") if line.startswith(b"HTTP/1.")]
"""


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
        for what, (first, rest) in hostile.items():
            known = sandbox.stats.denials
            said = sandbox.eval(f"status({first!r}, {rest!r}, True)")
            assert said, what
            assert all(400 <= status < 600 for status in said), (what, said)
            sandbox.exec("")
            assert sandbox.stats.denials == known + 1, what
        assert sandbox.eval(f"status('GET {target}', {host + chr(13) + chr(10)!r}, True)") == [200]  # half-closed
        assert other.eval(f"ask({world.granted!r}, {world.place!r})") == before
    assert not [path for path in world.plain.seen if "taken" in path]


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
