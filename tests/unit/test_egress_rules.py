"""Egress by name: what rules say of hosts, methods, paths and of the addresses that names turn out to have."""

from __future__ import annotations

import datetime
import hashlib
import html
import ipaddress
import json
import re
from collections.abc import Callable
from urllib.parse import quote

import h11
import pytest

from pyisolate import EnforcementError, Policy, PolicySyntaxError
from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.egress import signing
from pyisolate.egress.hiding import Hider
from pyisolate.egress.request import in_words
from pyisolate.policy import compile_policy, secrets, suggest, units, web
from pyisolate.policy.broker import Broker
from pyisolate.policy.check import check
from pyisolate.policy.diff import diff
from pyisolate.policy.load import load_bytes
from pyisolate.records import RefusedOperation

NONE = Policy.preset("none")


def broker(*rules: dict[str, object]) -> Broker:
    data = {"version": 1, "name": "p", "extends": "none", "net": list(rules)}
    return Broker(compile_policy(Policy.from_dict(data), resolve=lambda host: ["192.0.2.7"]))


def decided(asked: Broker, target: str) -> str:
    decision = asked.decide(Capability.NET_HTTP, target)
    return "allow" if decision.code is None else str(decision.code)


@pytest.mark.parametrize(
    ("rule", "canonical"),
    [
        ("GET api.example.org/v1/*", "GET api.example.org/v1/*"),
        ("* API.Example.org:8080/", "* api.example.org:8080/"),
        ("POST *.example.org:80/a%20b", "POST *.example.org/a%20b"),
        ("GET https://API.example.org:443/v1/*", "GET https://api.example.org/v1/*"),
        ("GET https://*.example.org:8443/", "GET https://*.example.org:8443/"),
    ],
)
def test_an_http_rule_has_one_form(rule: str, canonical: str) -> None:
    policy = NONE.allow_http(rule)
    assert policy.to_dict()["net"] == [{"http": canonical}]
    assert Policy.from_dict(policy.to_dict()) == policy


@pytest.mark.parametrize(
    "rule",
    ["api.example.org/v1", "get api.example.org/", "GET api.example.org", "GET ftp://api.example.org/", "GET */",
     "GET a.*.org/", "GET 10.0.0.1/", "GET a.org:0/", "GET a.org/a/../b", "GET a.org//b", "GET a.org/a%2fb",
     "GET a.org/*/b", "GET a.org/a;b", "GET a.org/a?b", "GET u@a.org/", "GET a.org/\\b", 7],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_no_rule(rule: object) -> None:
    with pytest.raises(PolicySyntaxError):
        units.http_target(rule)


@pytest.mark.parametrize("target", ["*.*.org:443", "*.:443", "*example.org:443", "a.*.org:443"])
def test_the_one_wildcard_is_a_whole_first_part(target: str) -> None:
    with pytest.raises(PolicySyntaxError):
        NONE.allow_connect(target)
    with pytest.raises(PolicySyntaxError):
        NONE.allow_bind("*.example.org:443")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("GET api.example.org/v1/x", "allow"),
        ("GET API.example.org./v1/x", "allow"),
        ("POST api.example.org/v1/x", "SCOPE_INSUFFICIENT"),
        ("GET api.example.org/v2/x", "SCOPE_INSUFFICIENT"),
        ("GET api.example.org:8080/v1/x", "SCOPE_INSUFFICIENT"),
        ("GET www.example.org/v1/x", "NOT_GRANTED"),
        ("GET api.example.org.evil.test/v1/x", "NOT_GRANTED"),
        ("GET api.example.org/v1/../admin", "EXPLICIT_DENY"),
        ("GET api.example.org/v1/%2e%2e/admin", "EXPLICIT_DENY"),
        ("GET api.example.org/v1//x", "EXPLICIT_DENY"),
        ("GET api.example.org/v1/private/x", "EXPLICIT_DENY"),
        ("GET api.example.org/v1/./private/x", "EXPLICIT_DENY"),
        ("CONNECT api.example.org:80", "SCOPE_INSUFFICIENT"),
        ("CONNECT a.cdn.test:443", "allow"),
        ("CONNECT cdn.test:443", "NOT_GRANTED"),
        ("CONNECT a.cdn.test:8443", "SCOPE_INSUFFICIENT"),
        ("CONNECT pinned.test:443", "allow"),
        ("CONNECT 192.0.2.7:443", "allow"),
        ("CONNECT 192.0.2.8:443", "NOT_GRANTED"),
        ("nonsense", "ALWAYS_DENIED"),
    ],
)
def test_host_method_and_path_decide(target: str, said: str) -> None:
    asked = broker(
        {"http": "GET api.example.org/v1/*"},
        {"http": "* api.example.org/v1/private/*", "deny": True},
        {"connect": "*.cdn.test:443"},
        {"connect": "pinned.test:443"},
    )
    assert decided(asked, target) == said


@pytest.mark.parametrize(
    "path", ["/v1/../admin", "/v1/%2e%2e/admin", "/v1//x", "/v1/%2Fx", "/v1/a;b", "/v1/.", "/v1/a\\b"]
)
def test_a_path_with_two_readings_needs_a_rule_for_all_paths(path: str) -> None:
    assert decided(broker({"http": "GET a.org/v1/*"}), f"GET a.org{path}") == "SCOPE_INSUFFICIENT"
    assert decided(broker({"http": "GET a.org/*"}), f"GET a.org{path}") == "allow"


def test_a_denied_name_beats_a_wider_grant_whatever_its_addresses_are() -> None:
    asked = broker({"connect": "*.example.org:443"}, {"connect": "admin.example.org:443", "deny": True})
    assert decided(asked, "CONNECT www.example.org:443") == "allow"
    assert decided(asked, "CONNECT admin.example.org:443") == "EXPLICIT_DENY"
    assert asked.reaches("192.0.2.7", 443)[1] is DenialCode.EXPLICIT_DENY


@pytest.mark.parametrize("way", ["*:443", "192.0.2.0/24:443", "a.example.org:443"])
def test_a_name_is_not_denied_where_an_address_goes_round_it(way: str) -> None:
    denies = NONE.deny_connect("*.example.org:443").allow_connect("*.example.com:443")
    compile_policy(denies)
    with pytest.raises(EnforcementError, match="without their names"):
        compile_policy(denies.allow_connect(way), resolve=lambda host: ["192.0.2.7"])


def test_a_wildcard_grants_nothing_by_address() -> None:
    asked = broker({"connect": "*.example.org:443"})
    direct = asked.decide(Capability.NET_CONNECT, "www.example.org:443")
    assert direct.verdict is Verdict.DENY
    assert "egress proxy" in direct.reason
    assert asked.decide(Capability.NET_CONNECT, "192.0.2.7:443").verdict is Verdict.DENY


def test_a_client_that_goes_round_the_proxy_is_told_of_it() -> None:
    rules = {"connect": "*.example.org:443"}, {"http": "GET api.example.com/v1/*"}
    asked = broker(*rules, {"connect": "not.example.org:443", "deny": True}, {"connect": "10.0.0.7:80", "deny": True})
    for target, way in (
        ("a.example.org:443", 'net: {connect: "*.example.org:443"}'),
        ("api.example.com:80", "net: {http: GET api.example.com/v1/*}"),
        ("192.0.2.9:443", 'net: {connect: "*.example.org:443"}'),
    ):
        decision = asked.decide(Capability.NET_CONNECT, target)
        assert decision.refused
        assert way in decision.reason, decision.reason
        assert "HTTPS_PROXY" in decision.reason
    for target in ("not.example.org:443", "other.example.com:80", "192.0.2.7:8080", "10.0.0.7:80"):
        decision = asked.decide(Capability.NET_CONNECT, target)
        assert decision.refused
        assert "PROXY" not in decision.reason


def test_a_refused_request_that_came_by_the_proxy_is_not_sent_there() -> None:
    asked = broker({"http": "GET api.test/v1/*"}, {"connect": "*.example.org:80"}, {"connect": "*:80"})
    assert decided(asked, "GET api.test/v1/x") == "allow"  # the control
    decision = asked.decide(Capability.NET_HTTP, "GET api.test/v2/x")
    assert decision.code is DenialCode.SCOPE_INSUFFICIENT  # nor does a grant of all addresses reach past the rule
    assert decision.reason == "net.http GET api.test/v1/* is granted, which does not reach GET api.test/v2/x"
    assert "PROXY" not in broker({"connect": "*.example.org:80"}).decide(Capability.NET_HTTP, "GET 10.1.2.3/").reason


PRIVATE = (
    "127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 192.0.2.1 "
    "198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 ::1 :: fe80::1 fc00::1 fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 "
    "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1 2001::1 2001:db8::1 ::127.0.0.1 fec0::1"
)


@pytest.mark.parametrize("address", PRIVATE.split())
def test_a_name_reaches_no_address_of_this_machine_or_its_networks(address: str) -> None:
    asked = broker({"connect": "*.example.org:443"})
    assert not web.is_public(ipaddress.ip_address(address))
    assert asked.reaches(address, 443)[1] is DenialCode.SCOPE_INSUFFICIENT


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_a_name_reaches_the_internet_and_what_a_rule_grants(address: str) -> None:
    asked = broker({"connect": "*.example.org:443"}, {"connect": "10.0.0.0/8:443"})
    assert asked.reaches(address, 443)[1] is None
    assert asked.reaches("10.1.2.3", 443)[1] is None
    assert asked.reaches("10.1.2.3", 80)[1] is DenialCode.SCOPE_INSUFFICIENT


@pytest.mark.parametrize("target", ["GET a.example.org/x", "POST a.example.org:81/", "CONNECT a.example.org:443"])
def test_the_suggested_rule_grants_the_request(target: str) -> None:
    suggested = suggest.suggestion(RefusedOperation(Capability.NET_HTTP, target))
    assert suggested is not None
    granted = Broker(compile_policy(suggest.apply(NONE, suggested), resolve=lambda host: ["192.0.2.7"]))
    assert decided(broker(), target) == "NOT_GRANTED"
    assert decided(granted, target) == "allow"


@pytest.mark.parametrize("target", ["GET a.org/a//b", "GET a.org/%2e", "CONNECT a.org:443 at 10.0.0.1", "egress proxy"])
def test_nothing_is_suggested_that_no_rule_says(target: str) -> None:
    assert suggest.suggestion(RefusedOperation(Capability.NET_HTTP, target)) is None


def test_diff_and_check_know_rules_by_name() -> None:
    wider = NONE.allow_http("* *.org/*").allow_connect("*.example.org:443")
    assert {(c.effect, c.what, c.target) for c in diff(NONE, wider)} == {
        ("widened", "net.http", "* *.org/*"),
        ("widened", "net.connect", "*.example.org:443"),
    }
    assert [c.effect for c in diff(wider, NONE)] == ["narrowed", "narrowed"]
    assert {finding.severity for finding in check(wider)} == {"danger", "warning"}
    assert not [finding for finding in check(NONE.allow_http("GET a.org/*")) if finding.severity != "note"]


def test_limits_of_egress_are_read_written_and_compared() -> None:
    bounded = NONE.with_egress(requests=3, sent="1KiB", received="2MiB", connections=2)
    assert Policy.from_dict(bounded.to_dict()) == bounded
    assert load_bytes(bounded.to_yaml().encode()) == bounded
    assert "egress" not in NONE.to_dict()
    assert {str(change) for change in diff(bounded, bounded.with_egress(requests=9, sent=None, connections=1))} == {
        "widened: egress.requests 3 -> 9",
        "widened: egress.sent 1KiB -> none",
        "narrowed: egress.connections 2 -> 1",
    }
    for wrong in ({"request": 3}, {"requests": 0}, {"sent": "x"}):
        with pytest.raises(PolicySyntaxError):
            NONE.with_egress(**wrong)
        with pytest.raises(PolicySyntaxError):
            Policy.from_dict({"version": 1, "egress": wrong})


def test_secrets_are_read_written_and_compared_without_values() -> None:
    policy = NONE.with_secret("api", "env:API_KEY", "bearer API.example.org:80/v1/*")
    assert policy.to_dict()["secrets"] == [
        {"name": "api", "from": "env:API_KEY", "inject": "bearer api.example.org/v1/*"}
    ]
    assert Policy.from_dict(policy.to_dict()) == policy == load_bytes(policy.to_yaml().encode())
    stated = "secret api bearer api.example.org/v1/* env:"
    assert [str(change) for change in diff(NONE, policy)] == [f"widened: {stated}API_KEY"]
    other = NONE.with_secret("api", "env:OTHER", "bearer api.example.org/v1/*")  # another credential for the same place
    assert [str(one) for one in diff(policy, other)] == [f"narrowed: {stated}API_KEY", f"widened: {stated}OTHER"]
    assert not compile_policy(policy).web


@pytest.mark.parametrize(
    ("source", "inject"),
    [
        ("sk-123456789", "bearer a.org/*"),
        ("file:relative", "bearer a.org/*"),
        ("env:A", "bearer ftp://a.org/*"),
        ("env:A", "bearer a.org"),
        ("env:A", "header:Host a.org/*"),
        ("env:A", "header:Content-Length a.org/*"),
        ("env:A", "header:X:Y a.org/*"),
        ("env:A", "digest a.org/*"),
        ("env:A", "bearer *:80/*"),
    ],
)
def test_a_secret_says_where_it_comes_from_and_goes(source: str, inject: str) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        NONE.with_secret("api", source, inject)
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize("value", ["short", "x" * 5000, "eight ch", "a\r\nX: 1234", "pässword"])
def test_a_value_that_cannot_be_hidden_is_refused_and_not_shown(value: str) -> None:
    stated = secrets.secret({"name": "api", "from": "env:A", "inject": "bearer a.org/*"})
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        secrets.injection(stated, value)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("service", "host", "target", "signature"),
    [  # as AWS documents them (IAM User Guide; S3 API Reference)
        ("iam", "iam.amazonaws.com", b"/?Action=ListUsers&Version=2010-05-08",
         "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
        ("s3", "examplebucket.s3.amazonaws.com", b"/?lifecycle",
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("s3", "examplebucket.s3.amazonaws.com", b"/?prefix=J&max-keys=2",
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)  # fmt: skip
def test_requests_are_signed_as_documented(service: str, host: str, target: bytes, signature: str) -> None:
    iam = service == "iam"
    identifier, slash = ("AKIDEXAMPLE", "+") if iam else ("AKIAIOSFODNN7EXAMPLE", "/")
    key = signing.Key(identifier, f"wJalrXUtnFEMI/K7MDENG{slash}bPxRfiCYEXAMPLEKEY", "", "us-east-1", service)
    headers = [(b"Host", host.encode())]
    if iam:
        headers.append((b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8"))
    at = datetime.datetime(2015, 8, 30, 12, 36) if iam else datetime.datetime(2013, 5, 24)
    signed = dict(signing.sign(key, b"GET", target, headers, hashlib.sha256().hexdigest(), at))
    assert signed[b"Authorization"].decode().endswith(f"Signature={signature}")


def test_a_key_of_aws_has_its_parts_and_none_is_shown() -> None:
    stated = secrets.secret({"name": "aws", "from": "env:A", "inject": "sigv4:eu-west-1/s3 https://b.a.org/*"})
    made = secrets.injection(stated, f"AKIAIOSFODNN7EXAMPLE:{'k' * 40}:{'t' * 100}")
    assert {"k" * 40, "t" * 100} <= set(made.hidden)
    assert "kkk" not in repr(made)
    with pytest.raises(ValueError, match="ACCESS_KEY_ID:SECRET_ACCESS_KEY"):
        secrets.injection(stated, "sk-123456789")
    with pytest.raises(PolicySyntaxError):
        secrets.secret({"name": "aws", "from": "env:A", "inject": "sigv4:s3 https://b.a.org/*"})


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_credentials_are_covered_wherever_an_answer_is_cut(size: int) -> None:
    stated = secrets.secret({"name": "api", "from": "env:A", "inject": "basic a.org/*"})
    made = secrets.injection(stated, "user:passpass")
    assert "passpass" not in repr(made)
    body = f"a user:passpass b {made.value} c user:pass user:passpass".encode()
    hider = Hider([made])
    got = b"".join(hider.more(body[i : i + size]) for i in range(0, len(body), size)) + hider.end()
    assert len(got) == len(body)
    assert b"passpass" not in got
    assert made.hidden[1].encode() not in got
    assert got.startswith(b"a *************")
    assert b" c user:pass *" in got
    assert Hider([]).more(body) == body
    # one begins with another, and one ends in the middle of another
    plain = secrets.secret({"name": "b", "from": "env:B", "inject": "header:X a.org/*"})
    three = Hider([secrets.injection(plain, value) for value in ("abcdefgh", "abcdefgh1234", "gh1234xyz")])
    body = b"-abcdefgh1234xyz-abcdefgh-abcdefgh12"
    got = b"".join(three.more(body[i : i + size]) for i in range(0, len(body), size)) + three.end()
    assert got == b"-***************-********-********12"


@pytest.mark.parametrize("escape", [json.dumps, html.escape, quote, lambda text: json.dumps(text).replace("/", "\\/")])
def test_credentials_are_covered_as_servers_write_them(escape: Callable[[str], str]) -> None:
    stated = secrets.secret({"name": "api", "from": "env:A", "inject": "basic a.org/*"})
    made = secrets.injection(stated, 'user:p/s+w=r"d<&>')
    for text in ('p/s+w=r"d<&>', made.value, made.value.partition(" ")[2]):
        assert not re.search(r"[a-z]{4}", Hider([made]).more(escape(text).encode()).decode().replace("Basic", ""))


def test_what_h11_met_is_not_told() -> None:
    for side, data in ((h11.CLIENT, b"HTTP/1.1 200 OK\r\nno header secret\r\n\r\n"), (h11.SERVER, b"secret\r\n\r\n")):
        reader = h11.Connection(side)
        reader.receive_data(data)
        with pytest.raises(h11.RemoteProtocolError, match="secret") as caught:
            reader.next_event()
        assert in_words(caught.value) in ("illegal header line", "illegal request line")


def test_rules_over_tls_and_plain_ones_speak_of_different_requests() -> None:
    policy = NONE.allow_http("GET https://a.org/v1/*").allow_http("GET a.org:443/v2/*").with_egress(inspect_tls=True)
    assert Policy.from_dict(policy.to_dict()) == policy == load_bytes(policy.to_yaml().encode())
    assert policy.to_dict()["egress"] == {"inspect_tls": True}
    asked = Broker(compile_policy(policy))
    for target, answer in (
        ("GET https://a.org/v1/x", "allow"),
        ("GET a.org:443/v2/x", "allow"),
        ("GET https://a.org/v2/x", str(DenialCode.SCOPE_INSUFFICIENT)),
        ("GET a.org:443/v1/x", str(DenialCode.SCOPE_INSUFFICIENT)),
        ("CONNECT a.org:443", "allow"),  # to be opened: what is inside is asked again
        ("CONNECT b.org:443", str(DenialCode.NOT_GRANTED)),
    ):
        assert decided(asked, target) == answer, target
    assert suggest.exact(Capability.NET_HTTP, "GET https://a.org/v9") == {"net": [{"http": "GET https://a.org/v9"}]}
    assert [str(change) for change in diff(policy, policy.with_egress(inspect_tls=False))] == [
        "narrowed: egress.inspect_tls true -> false"
    ]


@pytest.mark.parametrize(
    "policy",
    [
        NONE.allow_http("GET https://a.org/*"),
        NONE.allow_connect("*.a.org:443").deny_http("GET https://b.a.org/x"),
        NONE.allow_connect("*.a.org:443").with_secret("k", "env:K", "bearer https://b.a.org/*"),
    ],
    ids=["grant", "denial", "secret"],
)
def test_a_policy_that_opens_no_tls_may_not_speak_of_what_is_inside(policy: Policy) -> None:
    with pytest.raises(EnforcementError, match="inspect_tls") as caught:
        compile_policy(policy)
    assert caught.value.hint
    compile_policy(policy.with_egress(inspect_tls=True))
