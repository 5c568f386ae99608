"""Differences are differences of meaning, and findings name what gives away more than it seems to."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.policy import Policy, compile_policy
from pyisolate.policy.broker import Broker
from pyisolate.policy.check import Severity
from pyisolate.policy.explain import check, diff, explain
from tests.examples import examples

C = Capability
PATHS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
STEPS = st.lists(
    st.one_of(
        PATHS.map(lambda p: ("allow_read", p)),
        PATHS.map(lambda p: ("deny_read", p)),
        PATHS.map(lambda p: ("allow_write", p)),
        PATHS.map(lambda p: ("deny_write", p)),
        st.sampled_from(["10.0.0.0/8:*", "10.0.0.0/9:80", "10.0.0.5:80-90", "*:443", "*:85-500"]).map(
            lambda t: ("allow_connect", t)
        ),
        st.sampled_from(["10.0.0.0/8:*", "10.0.0.0/9:80", "10.128.0.0/9:80", "10.0.0.5:85"]).map(
            lambda t: ("deny_connect", t)
        ),
        st.sampled_from(["*", "@stdlib", "os", "json", "json.decoder", "numpy"]).map(lambda n: ("allow_import", n)),
        st.sampled_from(["os", "json", "json.decoder", "numpy"]).map(lambda n: ("deny_import", n)),
    ),
    max_size=6,
)
PROBES = [
    *((c, p) for c in (C.FS_READ, C.FS_WRITE, C.FS_METADATA) for p in ("/", "/a", "/a/b", "/a/b/c", "/b/c/d", "/c")),
    *((C.NET_CONNECT, f"{a}:{p}") for a in ("10.0.0.5", "10.0.0.6", "10.200.0.1", "1.1.1.1") for p in (80, 85, 443, 9)),
    *((C.IMPORT_MODULE, n) for n in ("os", "os.path", "json", "json.decoder", "numpy", "csv", "requests")),
]


def _build(steps: list[tuple[str, str]]) -> Policy:
    policy = Policy()
    for name, argument in steps:
        policy = getattr(policy, name)(argument)
    return policy


@pytest.mark.slow
@given(STEPS, STEPS)
@settings(max_examples=examples(200))
def test_an_empty_difference_means_the_same_and_a_sole_direction_is_true(old_steps, new_steps) -> None:
    old, new = _build(old_steps), _build(new_steps)
    before, after = Broker(compile_policy(old)), Broker(compile_policy(new))
    effects = {change.effect for change in diff(old, new)}
    opened = closed = False
    for capability, target in PROBES:
        was, now = (broker.decide(capability, target).verdict is Verdict.ALLOW for broker in (before, after))
        opened |= now and not was
        closed |= was and not now
    assert not opened or "widened" in effects
    assert not closed or "narrowed" in effects


@given(STEPS, STEPS)
@settings(max_examples=100)
def test_the_difference_turned_round_is_the_difference_the_other_way(old_steps, new_steps) -> None:
    old, new = _build(old_steps), _build(new_steps)
    forth = {(change.effect == "widened", change.what, change.target) for change in diff(old, new)}
    back = {(change.effect == "narrowed", change.what, change.target) for change in diff(new, old)}
    assert forth == back
    assert diff(old, old) == []


def test_a_redundant_rule_changes_nothing() -> None:
    policy = Policy().allow_read("/srv").allow_connect("10.0.0.0/8:*").allow_import("numpy")
    more = policy.allow_read("/srv/data").allow_connect("10.1.2.3:80").allow_import("numpy.linalg")
    assert diff(policy, more) == []
    assert policy.version != more.version


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (Policy(), Policy().allow_read("/a"), ["widened: fs.read /a"]),
        (Policy().allow_read("/a"), Policy().allow_read("/a/b"), ["narrowed: fs.read /a"]),
        (Policy().allow_read("/a"), Policy().allow_read("/a").deny("fs.read", "/a/b"), ["narrowed: fs.read /a/b"]),
        (Policy().deny_connect("10.0.0.0/8:*").allow_connect("*:443"), Policy().allow_connect("*:443"),
         ["widened: net.connect 10.0.0.0/8:443"]),
        (Policy().allow_connect("db:1"), Policy(), ["narrowed: net.connect db:1"]),
        (Policy(), Policy().allow_exec("/x").deny_fork(), ["widened: fs.read /x", "widened: process.exec /x"]),
        (Policy(), Policy().allow_fork(), ["widened: process.fork"]),
        (Policy(), Policy().with_mode("monitor", "net"), ["widened: mode of net enforce -> monitor"]),
        (Policy(), Policy().with_limits(wall="1s", memory=None), ["narrowed: limit.wall 30s -> 1s",
                                                                  "widened: limit.memory 256MiB -> none"]),
        (Policy(), Policy().deny_random(), ["narrowed: random.read"]),
        (
            Policy().allow_import("json.decoder"),
            Policy().allow_import("json.decoder").deny_import("json"),
            ["narrowed: import.module json"],
        ),
        (Policy(), Policy().allow_native("numpy"), ["widened: import.module numpy", "widened: import.native numpy"]),
    ],
)  # fmt: skip
def test_differences_read_as_sentences(old: Policy, new: Policy, lines: list[str]) -> None:
    assert [str(change) for change in diff(old, new)] == lines


def test_explain_names_rule_and_nearest_grant() -> None:
    policy = Policy.preset("compute").allow_read("/srv/data").deny("fs.read", "/srv/data/private")
    assert explain(policy, "fs.read", "/srv/data/x").rule == "fs: {path: /srv/data, allow: [read]}"
    refused = explain(policy, C.FS_READ, "/srv/data/private/x")
    assert (refused.code, refused.presented) == (DenialCode.EXPLICIT_DENY, "fs.read /srv/data")
    with pytest.raises(ValueError, match="raed"):
        explain(policy, "fs.raed", "/x")


# -- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "severity", "says"),
    [
        (Policy().allow_read("/"), Severity.DANGER, "every file"),
        (Policy().allow_read("/root"), Severity.DANGER, "home"),
        (Policy().allow_read("/home/me"), Severity.DANGER, "home"),
        (Policy().allow_read("/etc"), Severity.WARNING, "/etc/shadow"),
        (Policy().allow_write("/usr"), Severity.DANGER, "replaced"),
        (Policy().allow_write("/tmp").allow_exec("/tmp"), Severity.DANGER, "can be run"),
        (Policy().allow_write("/tmp").allow_native("*"), Severity.WARNING, "can be loaded"),
        (Policy().allow_exec("/bin/sh"), Severity.WARNING, "it runs what it is given"),
        (Policy().allow_exec("/usr/bin"), Severity.WARNING, "every program"),
        (Policy().allow_read("/no/such/path"), Severity.NOTE, "does not exist"),
        (Policy().deny("fs.read", "/srv"), Severity.NOTE, "no rule grants"),
        (Policy().allow_read("/usr").allow_read("/usr/bin"), Severity.NOTE, "a rule above grants already"),
        (Policy().allow_connect("*:80"), Severity.DANGER, "169.254.169.254"),
        (Policy().allow_connect("169.254.169.254:80"), Severity.DANGER, "metadata service (169.254.169.254)"),
        (Policy().allow_connect("[fd00::]/8:80"), Severity.DANGER, "metadata service (fd00:ec2::254)"),
        (Policy().allow_connect("metadata.google.internal:80"), Severity.DANGER, "metadata service"),
        (Policy().allow_http("GET metadata.google.internal/*"), Severity.DANGER, "metadata service"),
        (Policy().allow_connect("*:80"), Severity.WARNING, "own services"),
        (Policy().allow_connect("10.0.0.1:*"), Severity.WARNING, "most ports"),
        (Policy().allow_connect("unix:/run/docker.sock"), Severity.DANGER, "commands the machine"),
        (Policy().allow_bind("0.0.0.0:80"), Severity.WARNING, "every network"),
        (Policy().deny_connect("10.0.0.0/8:*"), Severity.NOTE, "no rule grants"),
        (Policy().allow_import("no_such_module"), Severity.NOTE, "not installed"),
        (Policy().allow_native("*"), Severity.WARNING, "any file"),
        (Policy().deny_import("numpy"), Severity.NOTE, "no rule grants"),
        (Policy().with_mode("monitor"), Severity.WARNING, "refuses nothing"),
        (Policy().with_limits(wall=None), Severity.NOTE, "ceiling"),
        (Policy().with_limits(memory=64), Severity.WARNING, "needs 4 MiB"),
    ],
)
def test_findings(policy: Policy, severity: Severity, says: str) -> None:
    assert any(finding.severity is severity and says in finding.message for finding in check(policy)), check(policy)


def test_a_script_without_its_interpreter_is_found(tmp_path: Path) -> None:
    script = tmp_path / "run"
    script.write_text("#!/bin/sh\ntrue\n")
    assert any("is a script of /bin/sh" in str(finding) for finding in check(Policy().allow_exec(script)))
    both = Policy().allow_exec(script).allow_exec("/bin/sh")
    assert not any("is a script of" in str(finding) for finding in check(both))


def test_shipped_presets_hold_no_danger() -> None:
    for name in ("compute", "none", "data", "readonly", "shell", "web-client", "web-names"):
        assert [str(f) for f in check(Policy.preset(name)) if f.severity is Severity.DANGER] == []


def test_a_tidy_policy_has_no_findings(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "secret").mkdir()
    policy = Policy.preset("compute").allow_read(tmp_path / "in").deny(str(tmp_path / "in" / "secret"))
    assert [str(f) for f in check(policy.allow_connect("10.0.0.5:5432")) if "denies" not in f.message] == []
    assert [str(f) for f in check(policy.allow_connect("169.254.0.0/17:80")) if "metadata service" in f.message] == []


def test_web_client_reaches_no_private_address() -> None:
    broker = Broker(compile_policy(Policy.preset("web-client")))
    private = "10.1.2.3 127.0.0.1 169.254.169.254 192.168.1.1 172.20.0.1 100.64.0.1 0.0.0.0 ::1 fd00::1 fe80::1 ff02::1"
    for text in f"{private} ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1:: ::".split():
        address = ipaddress.ip_address(text)
        host = f"[{address}]" if address.version == 6 else str(address)
        assert broker.decide(C.NET_CONNECT, f"{host}:443").verdict is Verdict.DENY, text
    for text in ("1.1.1.1:443", "[2606:4700::1111]:443", "8.8.8.8:80"):
        assert broker.decide(C.NET_CONNECT, text).verdict is Verdict.ALLOW
    assert broker.decide(C.NET_CONNECT, "1.1.1.1:22").verdict is Verdict.DENY
