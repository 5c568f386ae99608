"""TLS that the egress proxy opens: methods and paths are decided, credentials put in; for hosts of rules, no others."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import EnforcementError, Policy
from pyisolate.decision import DenialCode
from pyisolate.egress import process, signing
from tests import inside
from tests.host.egress_server import Server
from tests.host.test_egress import _HELPERS, _TUNNEL, NAMES, _memory, refused

pytestmark = pytest.mark.once

trustme = pytest.importorskip("trustme")
pytest.importorskip("cryptography")

SECRET = "sk-0123456789-over-tls"
HOST = "api.example.org"


class World:
    """A server that the proxy trusts, one that it does not, and a policy that grants one path of each over TLS."""

    def __init__(self, supervisor: pyisolate.Supervisor, secure: Server, strange: Server, authority: str) -> None:
        self.supervisor, self.secure, self.strange, self.authority = supervisor, secure, strange, authority
        self.place = f"{HOST}:{secure.port}"
        self.policy = (
            Policy.preset("compute")
            .allow_import("@stdlib")
            .allow_native("_ssl", "_socket", "_hashlib")
            .allow_connect(f"127.0.0.1:{secure.port}")
            .allow_connect(f"127.0.0.1:{strange.port}")
            .allow_http(f"* https://{self.place}/v1/*")
            .allow_http(f"GET https://{HOST}:{strange.port}/*")
            .allow_connect(f"*.example.org:{secure.port}")
            .deny_http(f"* https://{HOST}:{secure.port}/v1/admin*")
            .deny_http(f"* https://{HOST}:{secure.port}/v2/*")
            .with_egress(inspect_tls=True)
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    servers = []
    authorities = [trustme.CA(), trustme.CA()]
    for authority in authorities:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*NAMES).configure_cert(context)
        servers.append(Server(context))
    trusted = tmp_path_factory.mktemp("authority") / "ca.pem"
    authorities[0].cert_pem.write_to_path(trusted)
    hosts = {name: ["127.0.0.1"] for name in NAMES}
    with pyisolate.Supervisor(pool_size=1, egress_hosts=hosts, egress_ca=trusted) as supervisor:
        made = World(supervisor, *servers, trusted.read_text())
        supervisor.spawn("first", made.policy).close()  # starts the proxy, before the leak check looks
        yield made
    for server in servers:
        server.close()


@pytest.fixture
def guest(world: World) -> Iterator[pyisolate.Sandbox]:
    with world.supervisor.spawn("guest", world.policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        yield sandbox


#: What a guest does that knows nothing of the proxy, and one that says what it likes inside of a tunnel.
_ASKED = """
def ask(path, **options):
    asked = urllib.request.Request("https://{place}" + path, **options)
    with urllib.request.urlopen(asked) as answer:
        return answer.read().decode()
own = ssl.create_default_context()
def inside(data, place="{place}"):
    def then(sock):
        with own.wrap_socket(sock, server_hostname=place.partition(":")[0]) as tls:
            tls.sendall(data)
            got = b""
            while part := tls.recv(1 << 16):
                got += part
            return got.decode("latin-1")
    return tunnel(place, then)
def issuer(host, place):
    def then(sock):
        context = ssl._create_unverified_context()
        with context.wrap_socket(sock, server_hostname=host) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(True))
    return tunnel(place, then)
"""


def test_method_and_path_are_decided_inside_of_tls(world: World, guest: pyisolate.Sandbox) -> None:
    before = len(world.secure.seen)
    assert guest.eval("ask('/v1/x?q=1')").startswith(f"GET /v1/x?q=1 {world.place}")
    assert guest.eval("ask('/v1/x', data=b'x' * 100000)").startswith("POST /v1/x")
    assert guest.get_denial_events() == []
    for path, code in (("/v2/x?key=secret", DenialCode.EXPLICIT_DENY), ("/v1/admin", DenialCode.EXPLICIT_DENY)):
        event = refused(guest, f"ask({path!r})").denial_event
        assert event is not None
        asked = path.partition("?")[0]
        assert (event.target, event.code) == (f"GET https://{world.place}{asked}", code)
    assert len(world.secure.seen) == before + 2


def test_a_proxy_that_may_read_no_file_opens_tls(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an interpreter below a home of root's its user can read nothing, and what it imported late ended it."""
    monkeypatch.setattr(process, "_readable", lambda: ())
    trusted = tmp_path / "ca.pem"
    trusted.write_text(world.authority)
    hosts = {name: ["127.0.0.1"] for name in NAMES}
    with (
        pyisolate.Supervisor(pool_size=1, egress_hosts=hosts, egress_ca=trusted) as supervisor,
        supervisor.spawn("guest", world.policy) as guest,
    ):
        guest.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        assert guest.eval("ask('/v1/x')").startswith(f"GET /v1/x {world.place}")
        assert refused(guest, "ask('/v2/x')").denial_event is not None


def test_what_is_missing_is_suggested_and_the_suggestion_works(world: World) -> None:
    narrow = Policy.from_dict(
        {
            **world.policy.to_dict(),
            "net": [{"connect": f"127.0.0.1:{world.secure.port}"}, {"http": f"GET https://{world.place}/a"}],
        }
    )
    code = f"import urllib.request; urllib.request.urlopen('https://{world.place}/b').read()"
    with world.supervisor.spawn("narrow", narrow) as sandbox:
        event = refused(sandbox, code).denial_event
        assert event is not None
        assert event.suggestion == {"net": [{"http": f"GET https://{world.place}/b"}]}
    with world.supervisor.spawn("wider", narrow.allow_http(f"GET https://{world.place}/b")) as sandbox:
        sandbox.exec(code)


def test_only_hosts_that_rules_speak_of_are_opened(world: World, guest: pyisolate.Sandbox) -> None:
    port = world.secure.port
    server = guest.eval(f"issuer('other.example.org', 'other.example.org:{port}')")
    opened = guest.eval(f"issuer({HOST!r}, {world.place!r})")
    assert server != opened
    assert guest.eval(f"get('https://other.example.org:{port}/any')").startswith("GET /any")  # the server's own
    with world.supervisor.spawn("another", world.policy) as other:
        other.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        read = "open(os.environ['SSL_CERT_FILE']).read().partition('END')[0]"
        assert other.eval(read) != guest.eval(read)  # an authority is one sandbox's


def test_inside_of_a_tunnel_only_its_host_is_asked(world: World, guest: pyisolate.Sandbox) -> None:
    port, before = world.secure.port, len(world.secure.seen)
    for target, host in (
        ("/v1/x", "evil.test"),
        (f"https://evil.test:{port}/v1/x", f"evil.test:{port}"),
        (f"http://{HOST}:{port}/v1/x", f"{HOST}:{port}"),
    ):
        asked = "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {host}", "", ""))
        said = guest.eval(f"inside({asked.encode()!r})")
        assert said[9:10] == "4", said
    lengths = ("Content-Length: 4", "Transfer-Encoding: chunked", "", "0", "", "")
    smuggled = "\r\n".join(("POST /v1/x HTTP/1.1", f"Host: {HOST}:{port}", *lengths))
    assert guest.eval(f"inside({smuggled.encode()!r})")[9:12] == "400"
    guest.exec("")
    assert {event.code for event in guest.get_denial_events()} == {DenialCode.ALWAYS_DENIED}
    assert sum(event.count for event in guest.get_denial_events()) == 4
    assert len(world.secure.seen) == before
    right = f"GET /v1/x HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n"
    last = right.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    assert guest.eval(f"inside({(right + last).encode()!r})").count("HTTP/1.1 200") == 2


def test_requests_that_repeat_inside_of_tls_are_carried_and_another_is_refused(
    world: World, guest: pyisolate.Sandbox
) -> None:
    before, carried = len(world.secure.seen), 5
    guest.exec(
        "import http.client\n"
        "kept = http.client.HTTPSConnection('127.0.0.1', int(address.partition(':')[2]), context=own)\n"
        f"kept.set_tunnel({HOST!r}, {world.secure.port}, dict([credentials.decode().strip().split(': ')]))\n"
        "def again(path):\n"
        "    kept.request('GET', path)\n"
        "    with kept.getresponse() as answer:\n"
        "        return answer.status, answer.read().decode()\n"
    )
    for _ in range(carried):
        assert guest.eval("again('/v1/x')") == (200, f"GET /v1/x {world.place} ")
    assert guest.eval("again('/v2/x')")[0] == 403
    guest.exec("")
    assert [event.target for event in guest.get_denial_events()] == [f"GET https://{world.place}/v2/x"]
    assert world.secure.seen[before:] == ["GET /v1/x"] * carried


def test_a_host_that_the_proxy_does_not_trust_is_not_asked(world: World, guest: pyisolate.Sandbox) -> None:
    place = f"{HOST}:{world.strange.port}"
    asked = f"GET /x HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
    said = guest.eval(f"inside({asked!r}, {place!r})")
    assert said[9:12] == "502"
    assert "certificate" in said
    assert world.strange.seen == []


def test_credentials_go_in_over_tls_and_keys_stay_out_of_the_cell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGRESS_TLS_KEY", SECRET)
    policy = world.policy.with_secret("api", "env:EGRESS_TLS_KEY", f"bearer https://{world.place}/v1/*")
    world.secure.authorized.clear()
    with world.supervisor.spawn("keyless", policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        said = sandbox.eval("ask('/v1/echo')")
        assert said.endswith("*" * len(f"Bearer {SECRET}"))
        assert world.secure.authorized == [f"Bearer {SECRET}"]
        bundle = Path(sandbox.eval("os.environ['SSL_CERT_FILE']"))
        assert sandbox.eval("{os.environ[name] for name in ('PIP_CERT', 'GIT_SSL_CAINFO', 'CURL_CA_BUNDLE')}") == {
            str(bundle)
        }
        assert "PRIVATE" not in bundle.read_text()
        if os.getuid() == 0:  # who may read the memory of cells
            memory = _memory(sandbox.pid)
            assert SECRET.encode() not in memory
            admitted = inside.authority(world.supervisor, sandbox)
            assert admitted is not None
            secret = re.sub(r"-----.*?-----|\s", "", admitted.key)
            assert secret[40:80].encode() not in memory
            assert "PRIVATE" not in repr(admitted)
    assert not bundle.exists()


def test_a_key_signs_requests_and_a_parameter_is_put_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    access = signing.Key(
        "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "", "eu-west-1", "execute-api"
    )
    monkeypatch.setenv("EGRESS_AWS", f"{access.identifier}:{access.secret}")
    monkeypatch.setenv("EGRESS_PARAMETER", SECRET)
    policy = world.policy.with_secret(
        "aws", "env:EGRESS_AWS", f"sigv4:eu-west-1/execute-api https://{world.place}/v1/a/*"
    )
    policy = policy.with_secret("map", "env:EGRESS_PARAMETER", f"query:key https://{world.place}/v1/b/*")
    with world.supervisor.spawn("signed", policy) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        own = "headers={'Authorization': 'own', 'X-Amz-Date': 'own'}"
        sandbox.exec(f"ask('/v1/a/b%20c?z=1&a=%2B', data=b'a body', {own})")
        method, path, headers, body = world.secure.http.last  # type: ignore[attr-defined]
        sent = dict(headers)
        at = datetime.datetime.strptime(sent["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
        kept = [(n.encode(), v.encode()) for n, v in headers if n.lower().encode() not in signing.REPLACED]
        hashed = hashlib.sha256(b"a body").hexdigest()
        assert (method, path, body) == ("POST", "/v1/a/b%20c?z=1&a=%2B", b"a body")
        expected = dict(signing.sign(access, b"POST", path.encode(), kept, hashed, at))[b"Authorization"].decode()
        assert sent["Authorization"] == expected
        assert abs((datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - at).total_seconds()) < 60
        event = refused(sandbox, "ask('/v1/a/large', data=b'x' * (2 << 20))").denial_event
        assert event is not None
        assert event.code is DenialCode.LIMIT_EXCEEDED
        said = sandbox.eval("ask('/v1/b/c?key=own&q=1')")
        assert world.secure.http.last[1] == f"/v1/b/c?q=1&key={SECRET}"  # type: ignore[attr-defined]
        assert said.startswith(f"GET /v1/b/c?q=1&key={'*' * len(SECRET)} ")


def test_a_sandbox_that_trusts_no_authority_is_not_led_into_one(world: World) -> None:
    """A reload that opens TLS comes too late for a guest's environment: refused, with an event, not carried unread."""
    plain = Policy.from_dict(
        {**world.policy.with_egress(inspect_tls=False).to_dict(), "net": [
            {"connect": f"127.0.0.1:{world.secure.port}"}, {"connect": f"*.example.org:{world.secure.port}"}]}
    )  # fmt: skip
    with world.supervisor.spawn("late", plain) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority) + _TUNNEL)
        assert sandbox.eval(f"get('https://{world.place}/v2/x')").startswith("GET /v2/x")
        try:
            sandbox.reload_policy(world.policy.with_egress(inspect_tls=True))
        except EnforcementError:
            return  # Landlock grants no file afterwards
        event = refused(sandbox, f"get('https://{world.place}/v1/x')").denial_event
        assert event is not None
        assert event.target == f"CONNECT {world.place}"


def test_a_reload_opens_hosts_where_the_policy_said_so_from_the_start(world: World) -> None:
    rules = [rule for rule in world.policy.to_dict()["net"] if "https://" not in str(rule)]
    before = Policy.from_dict({**world.policy.to_dict(), "net": rules})
    with world.supervisor.spawn("earlier", before) as sandbox:
        sandbox.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        sandbox.reload_policy(world.policy)
        sandbox.exec("trusted = None")  # whom the variables name
        assert sandbox.eval(f"get('https://{world.place}/v1/x')").startswith("GET /v1/x")
        assert (
            str(refused(sandbox, f"get('https://{world.place}/v2/x')").denial_event.target)
            == f"GET https://{world.place}/v2/x"
        )  # type: ignore[union-attr]


def test_what_the_proxy_carries_is_counted_by_policy(world: World) -> None:
    metrics = world.supervisor.recorder.metrics

    def counted() -> tuple[float, ...]:
        requests = [metrics.egress_requests.value("counted", outcome) for outcome in ("granted", "refused")]
        return (*requests, metrics.egress_bytes.value("counted", "received"))

    # a name of its own: what sandboxes of other tests carried last is counted after their end
    with world.supervisor.spawn("counted", world.policy.with_name("counted")) as guest:
        guest.exec(_HELPERS.format(authority=world.authority) + _TUNNEL + _ASKED.format(place=world.place))
        guest.exec("ask('/v1/x')")
        refused(guest, "ask('/v2/x')")
    deadline = time.monotonic() + 10
    while not all(counted()) and time.monotonic() < deadline:  # a count may fall between request and answer
        time.sleep(0.02)
    assert counted()[:2] == (1, 1)
    assert counted()[2] > 0
