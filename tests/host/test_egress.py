"""The egress proxy: real servers, real clients as guests. What a rule names goes through; the rest is one event."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import EnforcementError, Policy, PolicyError
from pyisolate.decision import DenialCode
from tests.host.egress_server import Server

pytestmark = pytest.mark.once


trustme = pytest.importorskip("trustme")

NAMES = ("api.example.org", "other.example.org", "evil.test", "rebound.example.org")


class World:
    """Servers, their certificate authority, and a supervisor whose proxy finds the names on loopback."""

    def __init__(self, supervisor: pyisolate.Supervisor, authority: Any, plain: Server, secure: Server) -> None:
        self.supervisor, self.plain, self.secure = supervisor, plain, secure
        self.authority = authority.cert_pem.bytes().decode()
        #: what the test machine's addresses need besides names: they are not the Internet's
        self.policy = (
            Policy.preset("compute")
            .allow_import("@stdlib", "requests", "httpx")
            .allow_native("_ssl", "_socket", "_hashlib")
            .allow_read("@certificates")  # which urllib of 3.13 loads for any request
            .allow_connect(f"127.0.0.1:{plain.port}")
            .allow_connect(f"127.0.0.1:{secure.port}")
            .allow_http(f"GET api.example.org:{plain.port}/v1/*")
            .allow_connect(f"*.example.org:{secure.port}")
        )

    def url(self, path: str, host: str = "api.example.org") -> str:
        return f"http://{host}:{self.plain.port}{path}"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*NAMES).configure_cert(context)
    plain, secure = Server(), Server(context)
    hosts = {name: ["127.0.0.1"] for name in NAMES}
    with pyisolate.Supervisor(pool_size=1, egress_hosts=hosts) as supervisor:
        made = World(supervisor, authority, plain, secure)
        supervisor.spawn("first", made.policy).close()  # starts the proxy, before the leak check looks
        yield made
    plain.close()
    secure.close()


@pytest.fixture
def guest(world: World) -> Iterator[pyisolate.Sandbox]:
    with world.supervisor.spawn("guest", world.policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority))
        yield sandbox


#: What guests use: urllib as it is, and a connection to the proxy on which any bytes can be sent.
_HELPERS = '''
import base64, os, socket, ssl, urllib.request
trusted = ssl.create_default_context(cadata="""{authority}""")
def get(url, **options):
    asked = urllib.request.Request(url, **options)
    with urllib.request.urlopen(asked, context=trusted if url[4] == "s" else None) as answer:
        return answer.read().decode()
user, _, address = os.environ["HTTP_PROXY"].removeprefix("http://").partition("@")
credentials = b"Proxy-Authorization: Basic " + base64.b64encode(user.encode()) + b"\\r\\n"
def raw(data, most=1 << 16):
    sock = socket.create_connection(("127.0.0.1", int(address.partition(":")[2])))
    sock.sendall(data)
    return sock
def answers(data):
    with raw(data) as sock:
        got = b""
        while part := sock.recv(1 << 16):
            got += part
    return got.decode("latin-1")
'''


def refused(sandbox: pyisolate.Sandbox, code: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        sandbox.exec(code)
    return caught.value


def test_a_granted_request_goes_through_and_any_other_is_one_event(world: World, guest: pyisolate.Sandbox) -> None:
    granted, before = world.url("/v1/x?q=1"), len(world.plain.seen)
    assert guest.eval(f"get({granted!r})").startswith(f"GET /v1/x?q=1 api.example.org:{world.plain.port}")
    assert guest.get_denial_events() == []
    place = f"api.example.org:{world.plain.port}"
    for url, options, target in (
        (world.url("/v2/x"), "", f"GET {place}/v2/x"),
        (world.url("/v1/x?key=secret"), "data=b'abc'", f"POST {place}/v1/x"),
        (world.url("/v1/x", "evil.test"), "", f"GET evil.test:{world.plain.port}/v1/x"),
    ):
        error = refused(guest, f"get({url!r}, {options})")
        event = error.denial_event
        assert event is not None
        assert (str(event.capability), event.target, str(event.reported_by)) == ("net.http", target, "supervisor")
        assert event.suggestion == {"net": [{"http": target}]}
        assert guest.get_denial_events()[-1].event_id == event.event_id
    with pytest.raises(pyisolate.GuestError, match="Bad file descriptor"):  # what it caught is not why it failed
        guest.exec(f"try: get({world.url('/v2/x')!r})\nexcept OSError: os.read(999, 1)")
    assert sum(event.count for event in guest.get_denial_events()) == 4
    assert "secret" not in "".join(event.to_json() for event in guest.get_denial_events())
    assert len(world.plain.seen) == before + 1


def test_the_answer_names_the_missing_rule_and_the_rule_works(world: World) -> None:
    with world.supervisor.spawn("before", world.policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority))
        said = sandbox.eval(f"answers({head(world, 'GET ' + world.url('/v2/x') + ' HTTP/1.1')})")
    rule = f'{{"http": "GET api.example.org:{world.plain.port}/v2/x"}}'
    assert said.startswith("HTTP/1.1 403 pyisolate refused GET api.example.org")
    assert rule in said
    with world.supervisor.spawn(
        "after", world.policy.allow_http(f"GET api.example.org:{world.plain.port}/v2/x")
    ) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority))
        assert sandbox.eval(f"get({world.url('/v2/x')!r})").startswith("GET /v2/x")


def test_tls_goes_through_to_granted_names_only(world: World, guest: pyisolate.Sandbox) -> None:
    port = world.secure.port
    assert guest.eval(f"get('https://api.example.org:{port}/t')").startswith("GET /t")
    event = refused(guest, f"get('https://evil.test:{port}/t')").denial_event
    assert event is not None
    assert (event.target, event.suggestion) == (
        f"CONNECT evil.test:{port}",
        {"net": [{"connect": f"evil.test:{port}"}]},
    )


_TUNNEL = """
def tunnel(host, then):
    sock = raw(f"CONNECT {host} HTTP/1.1\\r\\nHost: {host}\\r\\n".encode() + credentials + b"\\r\\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    return then(sock)
def speak(data):
    def then(sock):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(100)
    return then
"""


@pytest.mark.parametrize(
    "then",
    [
        "lambda sock: trusted.wrap_socket(sock, server_hostname='other.example.org')",
        "speak(b'GET / HTTP/1.1\\r\\nHost: api.example.org\\r\\n\\r\\n')",
        "speak(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n')",
        "speak(b'\\x16\\x03\\x01\\x00\\x05' + bytes(5))",
        "speak(b'\\x16\\x03\\x01')",
    ],
    ids=["another name", "http", "http/2", "no handshake", "part of one"],
)
def test_a_tunnel_carries_tls_for_its_host_alone(world: World, guest: pyisolate.Sandbox, then: str) -> None:
    guest.exec(_TUNNEL)
    place, before = f"api.example.org:{world.secure.port}", len(world.secure.seen)
    right = "lambda sock: trusted.wrap_socket(sock, server_hostname='api.example.org').version()"
    assert guest.eval(f"tunnel({place!r}, {right})").startswith("TLS")
    assert guest.get_denial_events() == []
    guest.exec(f"try: tunnel({place!r}, {then})\nexcept OSError: pass")
    (event,) = guest.get_denial_events()
    assert (event.target, event.code, event.suggestion) == (f"CONNECT {place}", DenialCode.ALWAYS_DENIED, None)
    assert len(world.secure.seen) == before


def head(world: World, line: str, *more: str) -> str:
    """Return the expression of a request's head as bytes."""
    port = world.plain.port
    lines = [line, f"Host: api.example.org:{port}", *more]
    return repr("".join(f"{one}\r\n" for one in lines).encode()) + " + credentials + b'\\r\\n'"


def test_smuggled_and_malformed_requests_are_refused(world: World, guest: pyisolate.Sandbox) -> None:
    good = f"GET {world.url('/v1/x')} HTTP/1.1"
    port = world.plain.port
    inner = f"GET {world.url('/v2/admin')} HTTP/1.1\r\nHost: api.example.org:{port}\r\n\r\n".encode()
    attacks = [
        head(world, good, "Content-Length: 4", "Transfer-Encoding: chunked") + f" + b'0\\r\\n\\r\\n' + {inner!r}",
        head(world, good, "Upgrade: websocket", "Connection: Upgrade"),
        head(world, f"GET {world.url('/v1/x', 'evil.test')} HTTP/1.1"),
        head(world, "GET /v1/x HTTP/1.1"),
        head(world, good, "Host: evil.test"),
    ]
    before = len(world.plain.seen)
    for number, attack in enumerate(attacks, 1):
        assert " 4" in guest.eval(f"answers({attack})")[:13]
        guest.exec("")
        assert sum(event.count for event in guest.get_denial_events()) == number, attack
    assert {event.code for event in guest.get_denial_events()} == {DenialCode.ALWAYS_DENIED}
    assert len(world.plain.seen) == before
    assert "200" in guest.eval(f"answers({head(world, good, 'Connection: close')})")[:13]


def test_each_request_of_a_connection_is_decided(world: World, guest: pyisolate.Sandbox) -> None:
    """Pipelined: the second is sent before the first is answered."""
    first = head(world, f"GET {world.url('/v1/1')} HTTP/1.1")
    second = head(world, f"GET {world.url('/v1/2')} HTTP/1.1", "Connection: close")
    other = head(world, f"GET {world.url('/v2/2')} HTTP/1.1")
    assert guest.eval(f"answers({first} + {second})").count("HTTP/1.1 200") == 2
    said = guest.eval(f"answers({first} + {other} + {second})")
    assert (said.count("HTTP/1.1 200"), said.count("HTTP/1.1 403")) == (1, 1)
    guest.exec("")
    assert [event.target for event in guest.get_denial_events()] == [f"GET api.example.org:{world.plain.port}/v2/2"]


def test_the_host_sees_nothing_of_the_proxy(world: World) -> None:
    policy = world.policy.allow_http(f"POST api.example.org:{world.plain.port}/*")
    with world.supervisor.spawn("post", policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority))
        chunked = f"POST {world.url('/p')} HTTP/1.1"
        body = head(
            world, chunked, "Transfer-Encoding: chunked", "X-Own: 1", "Keep-Alive: 3", "Connection: close, x-own"
        )
        said = sandbox.eval(f"answers({body} + b'3\\r\\nabc\\r\\n2\\r\\nde\\r\\n0\\r\\n\\r\\n')")
        assert "200" in said[:13]
        sent = said.partition("X-Sent: ")[2].partition("\r\n")[0].lower()
        assert "host" in sent
        assert not [name for name in ("proxy", "keep-alive", "x-own") if name in sent]
        large = f"len(get({world.url('/p')!r}, data=b'x' * 300000))"
        assert sandbox.eval(large) > 300000


def test_a_redirect_to_another_host_is_another_request(world: World, guest: pyisolate.Sandbox) -> None:
    event = refused(guest, f"get({world.url('/v1/away')!r})").denial_event
    assert event is not None
    assert event.target == f"GET evil.test:{world.plain.port}/stolen"


def test_a_name_that_leads_to_this_machine_is_refused(world: World) -> None:
    """Rebinding: the name is granted, what it resolves to is not. `localhost` is looked up, the others are given."""
    port = world.plain.port
    names = Policy.preset("compute").allow_import("@stdlib").allow_native("_ssl", "_socket", "_hashlib")
    names = names.allow_read("@certificates")
    for host in ("rebound.example.org", "localhost"):
        policy = names.allow_http(f"GET {host}:{port}/*")
        ask = head(world, f"GET http://{host}:{port}/r HTTP/1.1", "Connection: close").replace("api.example.org", host)
        for granted in (False, True):
            with world.supervisor.spawn(
                "bound", policy.allow_connect(f"127.0.0.1:{port}") if granted else policy
            ) as one:
                one.exec(_HELPERS.format(authority=world.authority))
                assert one.eval(f"answers({ask})")[9:12] == ("200" if granted else "403")
                one.exec("")
                targets = [(event.target, event.suggestion) for event in one.get_denial_events()]
                wanted = f"GET {host}:{port}/r at 127.0.0.1"
                assert targets == ([] if granted else [(wanted, None)]) or (host, granted) == ("localhost", False)


def test_nobody_uses_another_sandboxs_proxy(world: World, guest: pyisolate.Sandbox) -> None:
    ask = f"GET {world.url('/v1/x')} HTTP/1.1\r\nHost: api.example.org:{world.plain.port}\r\nConnection: close\r\n"
    assert guest.eval(f"answers({ask.encode()!r} + credentials + b'\\r\\n')")[9:12] == "200"
    assert guest.eval(f"answers({ask.encode()!r} + b'\\r\\n')")[9:12] == "407"
    with world.supervisor.spawn("gone", world.policy) as other:
        other.exec(_HELPERS.format(authority=world.authority))
        token = other.eval("credentials.decode()")
        assert other.eval(f"answers({ask.encode()!r} + credentials + b'\\r\\n')")[9:12] == "200"
        # a password alone is not enough: the kernel says whose the connection is
        assert guest.eval(f"answers({ask.encode()!r} + {token!r}.encode() + b'\\r\\n')")[9:12] == "407"
    assert guest.eval(f"answers({ask.encode()!r} + {token!r}.encode() + b'\\r\\n')")[9:12] == "407"
    if os.geteuid() == 0:  # what is not dumpable is root's to read, and not its own user's (proc(5))
        assert Path(f"/proc/{guest.pid}").stat().st_uid != 0
        assert Path(f"/proc/{guest.pid}/environ").stat().st_uid == 0
    assert guest.get_denial_events() == []


def test_a_reload_is_in_force_at_once(world: World, guest: pyisolate.Sandbox) -> None:
    url = world.url("/v1/x")
    assert guest.eval(f"get({url!r})").startswith("GET")
    guest.reload_policy(_without(world))
    event = refused(guest, f"get({url!r})").denial_event
    assert event is not None
    assert event.policy_generation == 2


def test_a_reload_leads_no_guest_to_the_proxy_that_was_started_without_it(
    world: World, guest: pyisolate.Sandbox
) -> None:
    guest.reload_policy(_without(world).with_name("without"))
    guest.reload_policy(world.policy)  # it has the variables from its start
    assert guest.eval(f"get({world.url('/v1/x')!r})").startswith("GET")
    nameless = Policy.from_dict({**world.policy.to_dict(), "net": [{"connect": f"127.0.0.1:{world.plain.port}"}]})
    with world.supervisor.spawn("nameless", nameless) as sandbox:
        with pytest.raises(EnforcementError, match="HTTPS_PROXY"):
            sandbox.reload_policy(world.policy)
        assert sandbox.policy == nameless


def _without(world: World) -> Policy:
    kept = [rule for rule in world.policy.to_dict()["net"] if "http" not in rule]
    return Policy.from_dict({**world.policy.to_dict(), "net": kept})


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"requests": 2}, "for _ in range(2): get(url)\nget(url)"),
        ({"sent": "4KiB"}, "get(url)\nget(url, data=bytes(5000))"),
        ({"received": "4KiB"}, "get(url)\nget(url, data=bytes(5000))"),
        ({"sent": "4KiB"}, "get(secure)\nget(secure, data=bytes(5000))"),
        ({"received": "16KiB"}, "get(secure)\nget(secure, data=bytes(20000))"),
        ({"connections": 1}, "get(url)\nheld = tunnel(place, lambda sock: sock); get(url)"),
    ],
    ids=["requests", "sent", "received", "sent in a tunnel", "received from a tunnel", "connections"],
)
def test_what_goes_over_a_limit_is_refused(world: World, limits: dict[str, Any], code: str) -> None:
    """Two requests fit: the first goes through, and without the limit both do."""
    granted = world.policy.allow_http(f"* api.example.org:{world.plain.port}/v1/*")
    place = f"api.example.org:{world.secure.port}"
    names = f"url, secure, place = {world.url('/v1/x')!r}, 'https://{place}/t', {place!r}\n"
    for policy in (granted, granted.with_egress(**limits)):
        with world.supervisor.spawn("bounded", policy) as sandbox:
            sandbox.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + names)
            first, _, second = code.rpartition("\n")
            sandbox.exec(first)
            assert sandbox.get_denial_events() == []
            if policy is granted:
                sandbox.exec(second)
                continue
            event = refused(sandbox, second).denial_event
            assert event is not None
            assert (event.capability, event.code, event.suggestion) == ("net.http", DenialCode.LIMIT_EXCEEDED, None)
            assert event.target == f"egress {next(iter(limits))}"
            assert [one.count for one in sandbox.get_denial_events()] == [1]


def test_the_guest_never_sees_a_credential(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    value = "sk-0123456789-the-real-one"
    monkeypatch.setenv("EGRESS_TEST_KEY", value)
    policy = world.policy.with_secret("api", "env:EGRESS_TEST_KEY", f"bearer api.example.org:{world.plain.port}/v1/*")
    policy = policy.allow_http(f"GET evil.test:{world.plain.port}/*").allow_http(
        f"GET api.example.org:{world.plain.port}/v2/*"
    )
    seen: list[str] = [policy.to_yaml(), repr(policy)]
    world.plain.authorized.clear()
    with world.supervisor.spawn("keyless", policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority) + "control = 'a control-' + 'string of the guest'")
        own = head(world, f"GET {world.url('/v1/echo')} HTTP/1.1", "Authorization: Bearer own", "Connection: close")
        said = sandbox.eval(f"answers({own})")
        assert "*" * len(value) in said
        assert "x-authorization" in said.lower()
        sandbox.eval(f"get({world.url('/v2/x')!r})")
        sandbox.eval(f"get({world.url('/v1/away')!r})")
        assert world.plain.authorized == [f"Bearer {value}", None, f"Bearer {value}", None]
        with pytest.raises(pyisolate.SandboxError) as zipped:
            sandbox.exec(f"get({world.url('/v1/zipped')!r})")
        with pytest.raises(PolicyError) as denied:
            sandbox.exec(f"get({world.url('/v3/x')!r})")
        seen += [said, str(zipped.value), zipped.value.traceback, str(denied.value), *denied.value.__notes__]
        seen += [event.to_json() for event in sandbox.get_denial_events()]
        seen += [record.getMessage() for record in caplog.records]
        if os.getuid() == 0:  # who may read the memory of cells
            memory = _memory(sandbox.pid)
            assert b"a control-string of the guest" in memory
            assert value.encode() not in memory
    assert not [text for text in seen if value in text]
    monkeypatch.delenv("EGRESS_TEST_KEY")
    with pytest.raises(EnforcementError, match="EGRESS_TEST_KEY"):
        world.supervisor.spawn("without", policy)


def _memory(pid: int) -> bytes:
    """Return what a process has in memory of its own."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(number, 16) for number in place.split("-"))
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


def test_monitor_mode_lets_through_and_says_so(world: World) -> None:
    with world.supervisor.spawn("watched", world.policy.with_mode("monitor", "net")) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority))
        assert sandbox.eval(f"get({world.url('/v2/x')!r})").startswith("GET /v2/x")
        sandbox.exec("")
        mine = [event for event in sandbox.get_denial_events() if event.capability == "net.http"]
        assert [(event.would_deny, event.target) for event in mine] == [
            (True, f"GET api.example.org:{world.plain.port}/v2/x")
        ]


def test_a_proxy_that_dies_is_replaced_and_knows_its_sandboxes(world: World) -> None:
    url, hosts = world.url("/v1/x"), {name: ["127.0.0.1"] for name in NAMES}
    with (
        pyisolate.Supervisor(pool_size=1, egress_hosts=hosts) as supervisor,
        supervisor.spawn("survivor", world.policy) as sandbox,
    ):
        sandbox.exec(_HELPERS.format(authority=world.authority))
        assert sandbox.eval(f"get({url!r})").startswith("GET")
        first = supervisor.diagnostics().proxy_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # who replaces it has taken its end
            os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        tried = f"for _ in range(3):\n    try: print(get({url!r})); break\n    except OSError: pass"
        assert sandbox.exec(tried).stdout.startswith("GET")
        assert supervisor.diagnostics().proxy_pid not in (None, first)


def test_the_proxy_has_given_up_what_it_does_not_need(world: World, guest: pyisolate.Sandbox) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{world.supervisor.diagnostics().proxy_pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    uid = int(status["Uid"].split()[0])
    assert uid == os.getuid() or os.getuid() == 0
    if os.getuid() == 0:
        assert uid not in (0, 65534)


def test_a_sandbox_thread_cannot_be_led_to_the_proxy(world: World) -> None:
    with pytest.raises(EnforcementError, match="egress proxy"):
        world.supervisor.spawn("thread", Policy.preset("none").allow_http("GET a.example.org/*"), isolation="thread")


CLIENTS: dict[str, Callable[[str], str]] = {
    "requests": lambda url: (
        f"import requests; answer = requests.get({url!r}); answer.raise_for_status(); print(answer.text)"
    ),
    "httpx": lambda url: f"import httpx; print(httpx.get({url!r}).raise_for_status().text)",
}


@pytest.mark.slow
@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_clients_as_they_are(world: World, client: str) -> None:
    pytest.importorskip(client)
    policy = world.policy.allow_native("*").with_limits(memory="1GiB")
    with world.supervisor.spawn(client, policy) as sandbox:
        assert sandbox.exec(CLIENTS[client](world.url("/v1/x"))).stdout.startswith("GET /v1/x")
        event = refused(sandbox, CLIENTS[client](world.url("/v2/x"))).denial_event
        assert event is not None
        assert event.capability == "net.http"


@pytest.mark.slow
def test_curl_as_it_is(world: World) -> None:
    if not Path("/usr/bin/curl").exists():
        pytest.skip("no curl")
    policy = world.policy.allow_exec("/usr/bin/curl").allow_read("/etc/ssl").with_limits(processes=32)
    with world.supervisor.spawn("curl", policy) as sandbox:
        done = sandbox.run(["/usr/bin/curl", "-sS", world.url("/v1/x")])
        assert done.stdout.startswith(b"GET /v1/x"), done.stderr
        done = sandbox.run(["/usr/bin/curl", "-sS", world.url("/v2/x")])
        assert b"to allow it" in done.stdout
        sandbox.exec("")
        (event,) = [event for event in sandbox.get_denial_events() if event.capability == "net.http"]
        assert event.target == f"GET api.example.org:{world.plain.port}/v2/x"
