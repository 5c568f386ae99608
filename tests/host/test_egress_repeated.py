"""Requests that came before, byte by byte: each is counted and sent on, and only what was granted is known again."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import inside
from tests.host.egress_world import HOST, World, one_world, turns_of_tunnels

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_GUEST = """
import base64, http.client, os, socket
def login(proxy):
    password, _, address = proxy.removeprefix("http://").partition("@")
    return "Basic " + base64.b64encode(password.encode()).decode()
own = os.environ["HTTP_PROXY"]
port = int(own.rpartition(":")[2])
kept = http.client.HTTPConnection("127.0.0.1", port)
def ask(method, url, host, body=None, proxy=own):
    kept.request(method, url, body, {"Host": host, "Proxy-Authorization": login(proxy)})
    answer = kept.getresponse()
    return answer.status, answer.read().decode()
def thrice(url, other, host):
    'Send one request three times on one connection, the last time with another behind it.'
    common = f" HTTP/1.1\\r\\nHost: {host}\\r\\nProxy-Authorization: {login(own)}\\r\\n\\r\\n"
    one, two = (f"GET {target}{common}".encode() for target in (url, other))
    got = ["", "", ""]
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for turn, data in enumerate((one, one, one + two)):
            sock.sendall(data)
            while not got[turn].endswith(f"{host} ") and (more := sock.recv(1 << 16).decode("latin-1")):
                got[turn] += more
        while more := sock.recv(1 << 16):
            got[2] += more.decode("latin-1")
    return got
def gone(sock, head):
    'Tell whether nothing is answered on a connection any more.'
    try:
        sock.sendall(f"{head}Proxy-Authorization: {login(own)}\\r\\n\\r\\n".encode())
        return not sock.recv(1)
    except OSError:
        return True
"""

_CURL = Path("/usr/bin/curl")
#: each asks `count` times on one connection, and says what it was answered
_CLIENTS = {
    "requests": """
import requests
with requests.Session() as session:
    said = [session.get(url).status_code for _ in range(count)]
""",
    "httpx": """
import httpx
with httpx.Client() as client:
    said = [client.get(url).status_code for _ in range(count)]
""",
    "curl": """
import subprocess
command = ["CURL", "-s", "-w", "%{http_code} "] + ["-o", "/dev/null", url] * count
said = [int(one) for one in subprocess.run(command, capture_output=True, text=True).stdout.split()]
""".replace("CURL", str(_CURL)),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with one_world() as made:
        yield made


def test_equal_heads_carry_other_bodies_and_each_counts(world: World) -> None:
    before = len(world.plain.seen)
    with world.supervisor.spawn("counted", world.policy.with_egress(requests=6)) as sandbox:
        sandbox.exec(_GUEST)
        for body in (b"one!", b"two!", b"six!", b"four"):
            said = sandbox.eval(f"ask('POST', {world.granted!r}, {world.place!r}, {body!r})")
            assert said == (200, f"POST /v1/x {world.place} {body.decode()}")
        assert sandbox.eval(f"ask('GET', {world.granted!r}, {world.place!r})")[0] == 200
        assert sandbox.eval(f"ask('GET', {world.granted!r}, {world.place!r})")[0] == 200
        assert sandbox.get_denial_events() == []
        assert sandbox.eval(f"ask('GET', {world.granted!r}, {world.place!r})")[0] == 429
        assert [event.target for event in sandbox.get_denial_events()] == ["egress requests"]
    assert world.plain.seen[before:] == ["POST /v1/x"] * 4 + ["GET /v1/x"] * 2


@pytest.mark.parametrize("client", sorted(_CLIENTS))
def test_clients_as_they_are_have_each_request_counted_and_the_first_over_the_limit_refused(
    world: World, client: str
) -> None:
    if not _CURL.exists() if client == "curl" else importlib.util.find_spec(client) is None:
        pytest.skip(f"no {client}")
    policy = world.policy.allow_import("requests", "httpx").allow_native("*").allow_exec(_CURL)
    policy = policy.with_limits(memory="1GiB", processes=64).with_egress(requests=12)
    before, turns = len(world.plain.seen), turns_of_tunnels()
    with world.supervisor.spawn("client", policy) as sandbox:
        sandbox.exec(f"url, count = {world.granted!r}, 13\n{_CLIENTS[client]}")
        assert sandbox.eval("said") == [200] * 12 + [429]
        events = [event for event in sandbox.get_denial_events() if event.capability == "net.http"]  # curl has others
        assert [event.target for event in events] == ["egress requests"]
    assert world.plain.seen[before:] == ["GET /v1/x"] * 12
    assert turns_of_tunnels() > turns  # they were carried by the thread


def test_the_processor_time_of_the_proxy_is_charged_to_who_uses_it(world: World) -> None:
    policy = world.policy
    with world.supervisor.spawn("uses", policy) as uses, world.supervisor.spawn("rests", policy) as rests:
        uses.exec(_GUEST)
        proxy = inside.runtime(world.supervisor).egress
        deadline = time.monotonic() + 30
        while not (charged := proxy.spent_s(uses.id)) and time.monotonic() < deadline:  # the proxy tells now and then
            assert uses.eval(f"ask('GET', {world.granted!r}, {world.place!r})")[0] == 200
        assert 0 < charged <= (uses.stats.host_cpu_s or 0)
        assert proxy.spent_s(rests.id) == 0


def test_what_follows_a_known_head_is_decided_as_ever(world: World) -> None:
    before = len(world.plain.seen)
    repeated = f"[ask('GET', {world.granted!r}, {world.place!r})[0] for _ in range(6)]"
    with (
        world.supervisor.spawn("knows", world.policy) as sandbox,
        world.supervisor.spawn("another", world.policy) as another,
    ):
        sandbox.exec(_GUEST)
        first, second, third = sandbox.eval(f"thrice({world.granted!r}, {world.other!r}, {world.place!r})")
        assert first.startswith("HTTP/1.1 200")
        assert second.startswith("HTTP/1.1 200")
        assert third.startswith("HTTP/1.1 200")
        assert "HTTP/1.1 403" in third
        assert [event.target for event in sandbox.get_denial_events()] == [f"GET {world.place}/v2/x"]
        assert sandbox.eval(repeated) == [200] * 6
        # the same but for whose password it bears, on a connection that is this sandbox's
        foreign = another.eval("__import__('os').environ['HTTP_PROXY']")
        said = sandbox.eval(f"ask('GET', {world.granted!r}, {world.place!r}, None, {foreign!r})")
        assert said[0] == 407
        assert sandbox.eval(repeated) == [200] * 6
        sandbox.exec("held = kept.sock")
        sandbox.reload_policy(world.base.allow_http(f"GET {world.place}/v3/*"))
        # what the connection knew is not sent on any more, and it is closed
        common = f" HTTP/1.1\r\nHost: {world.place}\r\n"
        assert sandbox.eval(f"gone(held, 'GET {world.granted}' + {common!r})")
        said = sandbox.eval(f"kept.close() or ask('GET', {world.granted!r}, {world.place!r})")
        assert said[0] == 403
    assert world.plain.seen[before:] == ["GET /v1/x"] * 15


def test_repeated_requests_with_a_credential_have_it_and_no_answer_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, place = "sk-0123456789-repeated", world.place
    monkeypatch.setenv("EGRESS_REPEATED", value)
    policy = world.policy.allow_http(f"GET {place}/v2/*")
    policy = policy.with_secret("api", "env:EGRESS_REPEATED", f"bearer {place}/v1/*")
    world.plain.authorized.clear()
    with world.supervisor.spawn("keyless", policy) as sandbox:
        sandbox.exec(_GUEST)
        covered = "*" * len(f"Bearer {value}")
        for _ in range(3):
            for path, echoed in (("/v1/echo", covered), ("/v2/echo", "None")):
                said = sandbox.eval(f"ask('GET', 'http://{place}{path}', {place!r})")
                assert said == (200, f"GET {path} {place} {echoed}")
        assert sandbox.get_denial_events() == []
    assert world.plain.authorized == [f"Bearer {value}", None] * 3


def test_an_answer_to_a_repeated_request_that_is_compressed_or_none_shows_no_credential(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "sk-0123456789-repeated"
    monkeypatch.setenv("EGRESS_REPEATED", value)
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    zipped = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
    broken = b"HTTP/1.1 200 OK\r\nno header Bearer " + value.encode() + b"\r\n\r\n"
    for last in (zipped, broken):
        said, _ = _asked_in_turn(world, ["GET"] * 3, [plain, plain, last], secret="env:EGRESS_REPEATED")
        assert [status for status, _ in said] == [200, 200, 502]
        assert value not in str(said)


def _answer_in_turn(listener: socket.socket, answers: list[bytes]) -> None:
    """Give these answers to as many requests of one connection, each in one piece, and end it."""
    made, _ = listener.accept()
    with made:
        for answer in answers:
            while not made.recv(1 << 16).endswith(b"\r\n\r\n"):
                pass
            made.sendall(answer)


def _asked_in_turn(
    world: World, methods: list[str], answers: list[bytes], secret: str | None = None, **limits: int
) -> tuple[list[tuple[int, str]], list[str]]:
    """Return what a guest is answered by a host that answers so, and the targets of its events."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_answer_in_turn, args=(listener, answers), daemon=True)
        server.start()
        port = listener.getsockname()[1]
        place = f"{HOST}:{port}"
        policy = world.base.allow_connect(f"127.0.0.1:{port}").allow_http(f"* {place}/*")
        if secret is not None:
            policy = policy.with_secret("api", secret, f"bearer {place}/*")
        with world.supervisor.spawn("in turn", policy.with_egress(**limits)) as sandbox:
            sandbox.exec(_GUEST + "kept.timeout = 5")
            said = [sandbox.eval(f"ask({method!r}, 'http://{place}/', {place!r})") for method in methods]
            targets = [event.target for event in sandbox.get_denial_events()]
        server.join(5)
    return said, targets


def test_a_credential_in_an_answer_after_ones_that_were_carried_in_c_is_covered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "sk-0123456789-repeated"
    monkeypatch.setenv("EGRESS_REPEATED", value)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(value)
    plain, echo, turns = head + b"-" * len(value), head + value.encode(), turns_of_tunnels()
    answers = [*[plain] * 8, echo, *[plain] * 8, echo, plain]
    said, targets = _asked_in_turn(world, ["GET"] * len(answers), answers, secret="env:EGRESS_REPEATED")
    texts = {plain: "-" * len(value), echo: "*" * len(value)}
    assert said == [(200, texts[answer]) for answer in answers]
    assert targets == []
    assert turns_of_tunnels() > turns  # they were carried by the thread


def test_an_answer_to_head_is_none_to_get(world: World) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall"
    common = b"HTTP/1.1 200 OK\r\nX-Id: 1\r\n\r\n"  # HEAD: no body. GET: one that ends with the connection
    said, targets = _asked_in_turn(world, ["GET", "HEAD", "GET"], [whole, common, common + b"body"])
    assert said == [(200, "all"), (200, ""), (200, "body")]
    assert targets == []


def test_what_goes_over_a_limit_with_a_known_answer_is_answered(world: World) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000
    said, targets = _asked_in_turn(world, ["GET", "GET"], [answer, answer], received=5000)
    assert [status for status, _ in said] == [200, 429]
    assert targets == ["egress received"]
