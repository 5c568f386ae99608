"""Policies are values: builders commute, equal policies are equal, and text gives the same policy back."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyisolate.decision import Mode
from pyisolate.errors import PolicySyntaxError
from pyisolate.policy import Policy
from pyisolate.policy.load import PRESETS, load_bytes
from pyisolate.policy.rules import FileRule
from pyisolate.records import Actor

PATHS = st.lists(
    st.sampled_from(["srv", "data", "a b", "ü", "x*y", "-", "#", "null", "1"]), min_size=1, max_size=4
).map(lambda parts: "/" + "/".join(parts))
PLAIN = PATHS.filter(lambda path: "*" not in path)
RIGHTS = st.lists(st.sampled_from(["read", "write", "create", "delete", "metadata", "exec"]), unique=True, min_size=1)
TARGETS = st.sampled_from(
    ["10.0.0.0/8:443", "[2001:db8::]/32:1-1024", "db.internal:5432", "*:*", "[::1]:80", "unix:/run/x.sock", "1.2.3.4:1"]
)
NAMES = st.sampled_from(["json", "numpy", "numpy.linalg", "xml.etree", "*", "@stdlib", "on", "null", "_ctypes"])


def _builders() -> st.SearchStrategy:
    return st.one_of(
        PLAIN.map(lambda p: lambda policy: policy.allow_read(p)),
        PLAIN.map(lambda p: lambda policy: policy.allow_write(p)),
        PLAIN.map(lambda p: lambda policy: policy.allow_exec(p)),
        PLAIN.map(lambda p: lambda policy: policy.deny(p)),
        st.tuples(PATHS, RIGHTS, st.booleans()).map(
            lambda rule: (
                lambda policy: msgspec.structs.replace(
                    policy,
                    files=(*policy.files, FileRule(path=rule[0], **{"allow" if rule[2] else "deny": tuple(rule[1])})),
                )
            )
        ),
        TARGETS.map(lambda t: lambda policy: policy.allow_connect(t)),
        TARGETS.map(lambda t: lambda policy: policy.deny_connect(t)),
        TARGETS.map(lambda t: lambda policy: policy.allow_bind(t)),
        NAMES.map(lambda n: lambda policy: policy.allow_import(n)),
        NAMES.map(lambda n: lambda policy: policy.deny_import(n)),
        NAMES.map(lambda n: lambda policy: policy.allow_native(n)),
        st.just(lambda policy: policy.allow_fork()),
        st.just(lambda policy: policy.deny_fork()),
        st.just(lambda policy: policy.deny_random(seed=7)),
        st.just(lambda policy: policy.with_mode("monitor", "fs")),
        st.integers(1, 2**40).map(lambda n: lambda policy: policy.with_limits(memory=n, wall=None)),
        st.floats(0.001, 1e6).map(lambda n: lambda policy: policy.with_limits(cpu=n)),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    policy = Policy(name=draw(st.sampled_from(["p", "a b", "on", "1"])))
    for build in draw(st.lists(_builders(), max_size=8)):
        policy = build(policy)
    return policy


@pytest.mark.slow
@given(policies())
@settings(max_examples=150, deadline=None)
def test_yaml_gives_an_equal_policy_back(policy: Policy) -> None:
    again = load_bytes(policy.to_yaml().encode())
    assert again == policy
    assert hash(again) == hash(policy)
    assert again.version == policy.version
    assert Policy.from_dict(policy.to_dict()) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy


@given(st.lists(_builders(), min_size=2, max_size=6), st.randoms())
@settings(max_examples=100, deadline=None)
def test_rule_builders_commute_and_repeat_harmlessly(builders: list, random) -> None:
    def build(order: list) -> Policy:
        policy = Policy().allow_read("/first")
        for step in order:
            policy = step(policy)
        return policy

    shuffled = list(builders)
    random.shuffle(shuffled)
    first, second = build(builders), build(shuffled)
    assert first.rules == second.rules
    assert build(builders + builders).rules == first.rules


def test_a_builder_leaves_its_policy_alone() -> None:
    base = Policy.preset("compute")
    version = base.version
    assert base.allow_read("/srv/data") != base
    assert base == Policy.preset("compute")
    assert base.version == version
    with pytest.raises(AttributeError):
        base.mode = Mode.MONITOR  # type: ignore[misc]


def test_the_version_is_the_content() -> None:
    one = Policy(name="x").allow_read("/a").allow_connect("1.1.1.1:1")
    assert one.version == Policy(name="x").allow_connect("1.1.1.1:1").allow_read("/a").version
    assert len({one.version, one.deny_fork().version, one.with_mode("monitor").version, Policy().version}) == 4
    assert one.with_limits(wall="31s").version != one.version
    assert len(one.version) == 16


def test_repr_is_short_whatever_the_policy_holds() -> None:
    policy = Policy(name="big")
    for i in range(200):
        policy = policy.allow_read(f"/srv/{i}")
    assert len(repr(policy)) < 100
    assert "200 rules" in repr(policy)


def test_deny_beats_allow_of_the_same_thing_in_either_order() -> None:
    for policy in (Policy().allow_read("/x").deny("fs.read", "/x"), Policy().deny("fs.read", "/x").allow_read("/x")):
        assert [rule.text for rule in policy.files] == ["fs: {path: /x, deny: [read]}"]
    policy = Policy().deny_import("json").allow_import("json", "json.*")
    assert [rule.text for rule in policy.imports] == ["import: {deny: [json]}"]


def test_allow_write_grants_no_reading() -> None:
    assert Policy().allow_write("/out").files[0].allow == ("write", "create", "delete")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: p.deny("/srv"), "fs: {path: /srv, deny: [read, write, create, delete, metadata, exec]}"),
        (lambda p: p.deny("fs", "/srv"), "fs: {path: /srv, deny: [read, write, create, delete, metadata, exec]}"),
        (lambda p: p.deny("fs.delete", "/srv"), "fs: {path: /srv, deny: [delete]}"),
        (lambda p: p.deny(Path("/srv")), "fs: {path: /srv, deny: [read, write, create, delete, metadata, exec]}"),
        (lambda p: p.deny("net.connect", "10.0.0.0/8:*"), 'net: {connect: "10.0.0.0/8:*", deny: true}'),
        (lambda p: p.deny("net.bind", "127.0.0.1:0"), 'net: {bind: "127.0.0.1:0", deny: true}'),
        (lambda p: p.deny("process.exec", "/bin/sh"), "process: {exec: /bin/sh, deny: true}"),
        (lambda p: p.deny("process.fork"), "process: {fork: false}"),
        (lambda p: p.deny("import.module", "ctypes"), "import: {deny: [ctypes]}"),
        (lambda p: p.deny("import.native", "_ctypes"), "import: {deny_native: [_ctypes]}"),
    ],
)
def test_deny_says_what_it_denies(call, text: str) -> None:
    assert [rule.text for rule in call(Policy()).rules] == [text]


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.deny("fs.raed", "/srv"),
        lambda p: p.deny("fs.read"),
        lambda p: p.deny("kernel.bpf", "x"),
        lambda p: p.deny("process.fork", "x"),
        lambda p: p.allow_read("relative"),
        lambda p: p.allow_read("/srv/*.csv"),
        lambda p: p.allow_read("~/x"),
        lambda p: p.allow_exec("@interpreter"),
        lambda p: p.allow_connect("example.org"),
        lambda p: p.allow_connect("a.*.org:443"),
        lambda p: p.allow_connect("https://example.org:443"),
        lambda p: p.allow_connect("1.2.3.4:0"),
        lambda p: p.allow_import("scikit-learn"),
        lambda p: p.allow_import(3),
        lambda p: p.with_limits(walls=3),
        lambda p: p.with_limits(memory=True),
        lambda p: p.with_limits(memory=0),
        lambda p: p.with_limits(disk=4095),  # the tmpfs made a page of it
        lambda p: p.with_limits(wall=10**400),
        lambda p: p.with_mode("permissive"),
        lambda p: p.with_mode("monitor", "files"),
        lambda p: p.deny_random(seed=-1),
        lambda p: Policy.preset("compte"),
        lambda p: p.with_name("\n"),
        lambda p: p.allow_import(*(f"module_{number}" for number in range(50_001))),
    ],
)
def test_builders_refuse_what_a_file_could_not_say(call) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        call(Policy())
    assert caught.value.hint


def test_as_many_rules_as_a_policy_may_have() -> None:
    assert len(Policy().allow_import(*(f"module_{number}" for number in range(50_000))).rules) == 50_000


def test_modes_of_groups_survive_and_a_whole_mode_clears_them() -> None:
    policy = Policy().with_mode("monitor", "fs", "net").with_mode("enforce", "net")
    assert policy.modes == (("fs", Mode.MONITOR),)
    assert policy.with_mode("monitor").modes == ()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_survives_its_own_text(name: str) -> None:
    preset = Policy.preset(name)
    assert preset.name == name
    assert load_bytes(preset.to_yaml().encode()) == preset


def test_none_grants_nothing() -> None:
    assert Policy.preset("none").rules == ()
    assert Policy.preset("none").random is False


def test_limits_take_units() -> None:
    limits = (
        Policy().with_limits(memory="1.5GiB", wall="2m", cpu="250ms", output="10kB", messages=3, processes=None).limits
    )
    assert (limits.memory_bytes, limits.wall_s, limits.cpu_s) == (1536 << 20, 120.0, 0.25)
    assert (limits.output_bytes, limits.messages, limits.processes) == (10_000, 3, None)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("compute", "Policy.preset('compute')"),
        ("rules.yaml", "Policy.load('rules.yaml')"),
        (Path("/srv/rules.yaml"), "Policy.load('/srv/rules.yaml')"),
        ({"version": 1}, "Policy.from_dict"),
        ("nonesuch", "Policy.preset('compute') is a shipped policy"),
        (7, "Policy.preset"),
    ],
)
def test_who_calls_the_class_is_told_what_makes_a_policy(given: object, hint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(hint)):
        Policy(given)
    assert Policy() == Policy(name="policy")
    assert Actor("user", "7") == Actor(kind="user", id="7")
