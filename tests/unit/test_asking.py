"""What `ask` says is asked about: capabilities whole, or what rules of its own cover."""

from __future__ import annotations

from typing import Any

import pytest

from pyisolate import Policy, PolicySyntaxError
from pyisolate.capability import Capability
from pyisolate.policy import compile_policy
from pyisolate.policy.asking import ASKABLE, MOST_PROGRAMS, asks_about
from pyisolate.policy.diff import diff
from pyisolate.policy.web import by_name

READ, CONNECT, HTTP = Capability.FS_READ, Capability.NET_CONNECT, Capability.NET_HTTP
ASK: list[Any] = [
    {"connect": "10.0.0.0/8:443"},
    {"connect": "*.example.org:443"},
    {"http": "GET api.example.com/v1/*"},
    {"read": "/srv/data"},
    {"exec": "/opt/tool"},
    {"write": "/srv/out"},
    {"create": "/srv/out/new"},
]


def asked(ask: list[Any], capability: Capability, target: str) -> bool:
    return asks_about(compile_policy(Policy.preset("none").with_ask(*ask)), capability, target)


@pytest.mark.parametrize(
    ("capability", "target", "said"),
    [
        (CONNECT, "10.1.2.3:443", True),
        (CONNECT, "[::ffff:10.1.2.3]:443", True),
        (CONNECT, "10.1.2.3:80", False),
        (CONNECT, "11.1.2.3:443", False),
        (HTTP, "CONNECT a.example.org:443", True),
        (HTTP, "CONNECT example.org:443", False),
        (HTTP, "GET api.example.com/v1/x", True),
        (HTTP, "POST api.example.com/v1/x", False),
        (HTTP, "GET api.example.com/v1/../x", False),
        (READ, "/srv/data/a/b", True),
        (READ, "/srv/data", True),
        (READ, "/srv/database", False),
        (Capability.PROCESS_EXEC, "/opt/tool", True),
        (Capability.PROCESS_EXEC, "/opt/tool/inside", False),
        (Capability.PROCESS_EXEC, "/opt/tools", False),
        (Capability.FS_WRITE, "/srv/data/a", False),
        (Capability.FS_WRITE, "/srv/out/a", True),
        (Capability.FS_CREATE, "/srv/out/a", False),
        (Capability.FS_CREATE, "/srv/out/new/a", True),
        (Capability.FS_DELETE, "/srv/out/new/a", False),
    ],
)
def test_a_rule_of_ask_covers_what_a_grant_would(capability: Capability, target: str, said: bool) -> None:
    assert asked(ASK, capability, target) is said


def test_a_capability_is_asked_about_whole_and_beside_its_rules() -> None:
    assert asked([*ASK, "net.connect"], CONNECT, "11.1.2.3:80")
    assert asked([{"connect": "*:443"}], CONNECT, "[2001:db8::1]:443")
    assert not asked([{"read": "/srv"}], CONNECT, "10.1.2.3:443")
    assert by_name(compile_policy(Policy.preset("none").with_ask({"connect": "a.example.org:443"})))
    assert not by_name(compile_policy(Policy.preset("none").with_ask({"connect": "10.0.0.1:443"})))


def test_rules_of_ask_are_written_read_and_compared() -> None:
    policy = Policy.preset("none").with_ask("net.http", *ASK)
    assert policy.to_dict()["ask"] == [{"connect": "*.example.org:443"}, {"connect": "10.0.0.0/8:443"}, ASK[6],
                                       ASK[4], ASK[2], "net.http", ASK[3], ASK[5]]  # fmt: skip
    assert Policy.from_dict(policy.to_dict()) == policy
    changed = diff(policy, Policy.preset("none").with_ask("net.http", *ASK[1:]))
    assert "connect 10.0.0.0/8:443" in str(changed)


@pytest.mark.parametrize(
    "entry",
    ["process.exec", "connect 10.0.0.0/8:443", {"exec": "git"}, {"http": "GET https://a.org/x"},
     {"read": "data"}, {"connect": 1}, {"connect": "unix:/run/x"}, {"read": "/a", "http": "GET a.org/"}, 7,
     {"read": "/srv/*"}],
)  # fmt: skip
def test_what_cannot_be_asked_about_is_no_entry(entry: Any) -> None:
    with pytest.raises(PolicySyntaxError):
        Policy.from_dict({"version": 1, "name": "a", "ask": [entry]})


@pytest.mark.parametrize(
    "entry",
    [*(one.value for one in Capability if one.value not in ASKABLE),
     *({key: "/srv"} for key in "unlink rename mkdir rmdir link symlink chmod list".split()),
     {"bind": "127.0.0.1:80"}, {}, []],
)  # fmt: skip
def test_what_nobody_waits_for_is_an_error_with_a_hint(entry: Any) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        Policy.preset("none").with_ask(entry)
    assert "use fs.create" in (caught.value.hint or "")


def test_no_more_programs_are_asked_about_than_have_gates() -> None:
    programs = [{"exec": f"/opt/tool{number}"} for number in range(MOST_PROGRAMS + 1)]
    assert len(Policy.preset("none").with_ask(*programs[1:]).ask) == MOST_PROGRAMS
    with pytest.raises(PolicySyntaxError, match=f"more than {MOST_PROGRAMS} programs"):
        Policy.preset("none").with_ask(*programs)
