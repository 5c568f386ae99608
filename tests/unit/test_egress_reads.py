"""What the egress proxy reads, of guests and of servers, and what its supervisor takes from it."""

from __future__ import annotations

import ssl

import h11
import pytest

from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.egress import messages, tunnel
from pyisolate.egress.request import Refusal, read_request
from pyisolate.policy import web
from pyisolate.records import BrokerRecord

NONE = Policy.preset("none")


def request(method: str, target: str, *headers: tuple[str, str], version: str = "1.1") -> h11.Request:
    return h11.Request(method=method, target=target, headers=list(headers), http_version=version)


def test_a_request_is_read_as_its_target_says() -> None:
    event = request("GET", "http://A.example.org:8080/x?q=/../y", ("Host", "a.example.org:8080"))
    assert read_request(event, None) == (web.Request("GET", "a.example.org", 8080, "/x"), b"/x?q=/../y")
    tunnelled, _ = read_request(request("CONNECT", "[2001:DB8::1]:443", ("Host", "[2001:db8::1]:443")), None)
    assert str(tunnelled) == "CONNECT [2001:db8::1]:443"


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/x", [("Host", "a.org")]),
        ("GET", "https://a.org/x", [("Host", "a.org")]),
        ("GET", "http://u:p@a.org/x", [("Host", "a.org")]),
        ("GET", "http://a.org\\@b.org/x", [("Host", "a.org")]),
        ("GET", "http://a.org/x", [("Host", "b.org")]),
        ("GET", "http://a.org/x", [("Host", "a.org:81")]),
        ("GET", "http://a.org:99999/x", [("Host", "a.org")]),
        ("GET", "http://a.org/x", [("Host", "a.org"), ("Upgrade", "websocket"), ("Connection", "upgrade")]),
        ("POST", "http://a.org/x", [("Host", "a.org"), ("Content-Length", "4"), ("Transfer-Encoding", "chunked")]),
        ("GET", "http://a.org/x", []),
        ("CONNECT", "a.org", [("Host", "a.org")]),
        ("CONNECT", "a.org:443", [("Host", "b.org:443")]),
        ("CONNECT", "http://a.org:443/", [("Host", "a.org")]),
        ("A" * 33, "http://a.org/x", [("Host", "a.org")]),
    ],
)
def test_a_request_with_two_readings_is_refused(method: str, target: str, headers: list[tuple[str, str]]) -> None:
    event = request(method, target, *headers, version="1.1" if headers else "1.0")
    with pytest.raises(Refusal) as caught:
        read_request(event, None)
    assert caught.value.code is DenialCode.ALWAYS_DENIED


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        ("GET", "/x", "b.org"),
        ("GET", "https://b.org/x", "b.org"),
        ("GET", "http://a.org/x", "a.org"),
        ("CONNECT", "a.org:443", "a.org:443"),
        ("GET", "//a.org@b.org/x", "b.org"),
    ],
)
def test_a_request_inside_of_a_tunnel_is_for_its_host(method: str, target: str, host: str) -> None:
    tunnelled = web.Request("CONNECT", "a.org", 443)
    with pytest.raises(Refusal) as caught:
        read_request(request(method, target, ("Host", host)), tunnelled)
    assert caught.value.code is DenialCode.ALWAYS_DENIED
    right = read_request(request("GET", "/x?y", ("Host", "a.org")), tunnelled)
    assert right == (web.Request("GET", "a.org", 443, "/x", tls=True), b"/x?y")
    assert str(right[0]) == "GET https://a.org/x"
    assert web.parse(str(right[0])) == right[0]


def hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_the_name_of_a_handshake_is_read_and_nothing_else_is_taken_for_one() -> None:
    whole = hello("api.example.org")
    assert tunnel.name_in(whole) == "api.example.org"
    assert tunnel.name_in(hello(None)) is None
    with pytest.raises(EOFError):
        tunnel.name_in(whole[:-1])
    for other in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\0\0" * 9,
    ):
        with pytest.raises((tunnel.NotTheHost, EOFError)):
            tunnel.name_in(other)


@pytest.mark.parametrize(
    "change",
    [
        {"capability": Capability.FS_READ},
        {"verdict": Verdict.ALLOW},
        {"count": 9},
        {"asked_by": "callback"},
        {"answer": "once"},
        {"waited_ms": -1},
    ],
    ids=str,
)
def test_the_supervisor_takes_only_refused_requests_from_the_proxy(change: dict[str, object]) -> None:
    fields = {"sequence": 5, "capability": Capability.NET_HTTP, "target": "x" * 9000, "verdict": Verdict.DENY}
    sent = messages.encode(messages.Refused(key="k", record=BrokerRecord(**fields)))[4:]  # type: ignore[arg-type]
    taken = messages.decode_report(sent)
    assert isinstance(taken, messages.Refused)
    assert (taken.record.sequence, len(taken.record.target)) == (0, 4096)
    with pytest.raises(messages.BadReport):
        messages.decode_report(
            messages.encode(messages.Refused(key="k", record=BrokerRecord(**{**fields, **change})))[4:]  # type: ignore[arg-type]
        )
    with pytest.raises(messages.BadReport):
        messages.decode_report(b"\xc1")


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("GET a.example.org/\x1b[2J", 1),
        ("nonsense", 1),
        ("GET a.example.org/", 0),
        (f"GET a.example.org:{'1' * 5000}/", 1),  # no int() takes it
        (f"GET a.example.org/{'x' * 2000}", 1),
    ],
    ids=["escape", "nonsense", "number", "port", "length"],
)
def test_the_supervisor_takes_only_questions_about_requests(target: str, number: int) -> None:
    good = messages.Questioned(key="k", number=1, target="GET a.example.org/")
    assert messages.decode_report(messages.encode(good)[4:]) == good
    with pytest.raises(messages.BadReport):
        messages.decode_report(messages.encode(messages.Questioned(key="k", number=number, target=target))[4:])
    assert web.parse(f"GET a.example.org:{'1' * 5000}/") is None
