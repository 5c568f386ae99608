"""Requests by name are learned as paths of a host and hosts of a domain, no further than the level says."""

from __future__ import annotations

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode
from pyisolate.policy import Policy, compile_policy
from pyisolate.policy.broker import Broker
from pyisolate.policy.learn import learn, learn_yaml
from pyisolate.policy.load import load_bytes
from tests.unit.test_policy_learn import _event

#: A base by which a sandbox is led to the proxy at all.
BASE = Policy.preset("none").allow_http("GET https://api.example.com/start").with_egress(inspect_tls=True)
SEEN = [
    *(f"GET https://api.example.com/v1/users/{number}" for number in range(4)),
    "POST https://api.example.com/v1/orders",
    "GET https://api.example.com/health",
    "GET https://api.example.com/v1/users/a/../b",
]
NAMES = [f"CONNECT {name}.example.org:443" for name in ("a", "b", "c")]


def rules(seen: list[str], level: int, base: Policy = BASE) -> set[str]:
    learned = learn([_event(Capability.NET_HTTP, target) for target in seen], generalise=level, base=base)
    return {rule.target for rule in learned.network if rule not in base.network}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, set(SEEN[:-1])),
        (1, {"GET https://api.example.com/v1/users/*", *SEEN[4:-1]}),
        (2, {"GET https://api.example.com/v1/users/*", "POST https://api.example.com/v1/*", SEEN[5]}),
    ],
)
def test_paths_become_directories(level: int, expected: set[str]) -> None:
    assert rules(SEEN, level) == expected


def test_a_path_with_two_readings_stays_refused_and_the_text_says_so() -> None:
    events = [_event(Capability.NET_HTTP, target) for target in SEEN]
    text = learn_yaml(events, generalise=2, base=BASE)
    assert f"still refused (2): net.http {SEEN[-1]}" in text
    broker = Broker(compile_policy(load_bytes(text.encode())))
    assert [broker.decide(Capability.NET_HTTP, target).code for target in SEEN[:-1]] == [None] * 6
    assert broker.decide(Capability.NET_HTTP, "GET https://api.example.com/v2/x").code is not None
    assert broker.decide(Capability.NET_HTTP, SEEN[-1]).code is DenialCode.SCOPE_INSUFFICIENT


@pytest.mark.parametrize(
    ("hosts", "level", "expected"),
    [
        (NAMES, 3, {"*.example.org:443"}),
        (NAMES[:2], 3, {"a.example.org:443", "b.example.org:443"}),
        ([f"CONNECT {name}.co.uk:443" for name in "abc"], 3, {f"{name}.co.uk:443" for name in "abc"}),
        ([f"CONNECT {name}.org:443" for name in "abc"], 3, {f"{name}.org:443" for name in "abc"}),
        ([f"GET {name}.example.org/x" for name in "abc"], 3, {"GET *.example.org/x"}),
    ],
)
def test_names_become_a_domain(
    hosts: list[str], level: int, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyisolate.policy.resolver.resolve_host", lambda host: ["192.0.2.1"])
    assert rules(hosts, level) == expected
    if len(expected) == 1:
        assert len(rules(hosts, 2)) == len(hosts)


def test_what_is_learned_inside_of_tls_has_it_opened() -> None:
    learned = learn([_event(Capability.NET_HTTP, SEEN[0])], base=Policy.preset("none"))
    assert learned.inspect_tls
    assert compile_policy(learned).web


def test_a_tunnel_to_a_host_without_an_address_is_not_learned_and_the_text_says_why() -> None:
    events = [_event(Capability.NET_HTTP, f"CONNECT {name}.example.org:443") for name in "ab"]
    addresses = {"b.example.org": ["192.0.2.1"]}
    text = learn_yaml(events, base=BASE, resolve=lambda host: addresses.get(host, []))
    assert 'a.example.org:443: a.example.org has no address here; where it has, {connect: "a.example.org:443"}' in text
    assert "b.example.org has no address" not in text
    assert "{connect: b.example.org:443}" in text.replace("'", "").replace('"', "")
