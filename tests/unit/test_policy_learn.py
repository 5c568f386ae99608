"""What was learned from a run lets the same run through, and generalises no further than it says."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.errors import SandboxError
from pyisolate.policy import Policy, compile_policy
from pyisolate.policy import learning as learn_module
from pyisolate.policy.broker import Broker
from pyisolate.policy.learn import learn, learn_yaml
from pyisolate.policy.load import load_bytes
from pyisolate.records import Evaluation, Reporter
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.sanitize import escape
from tests.examples import examples

C = Capability
SEEN = [
    (C.FS_READ, "/srv/data/a.csv"),
    (C.FS_READ, "/srv/data/b.csv"),
    (C.FS_READ, "/srv/data/c.csv"),
    (C.FS_READ, "/srv/data/d.csv"),
    (C.FS_READ, "/etc/hostname"),
    (C.FS_CREATE, "/srv/out/report.txt"),
    (C.FS_WRITE, "/srv/out/report.txt"),
    (C.NET_CONNECT, "10.0.0.5:5432"),
    (C.IMPORT_MODULE, "numpy.linalg"),
    (C.PROCESS_EXEC, "/usr/bin/git"),
    (C.KERNEL_BPF, "bpf"),
]


def _event(capability: Capability, target: str, **fields: Any) -> DenialEvent:
    given: dict[str, Any] = dict(  # noqa: C408
        event_id="1", time=0.0, monotonic_ns=0, sandbox="s", sandbox_id="s1", policy="p", policy_version="v",
        policy_generation=1, isolation="process", pid=1, tid=1, capability=capability, target=escape(target),
        code=DenialCode.NOT_GRANTED, requested_capability="", presented_capability=None, policy_rule=None,
        mode=Mode.MONITOR, would_deny=True, would_deny_reason="", broker_decision=Verdict.WOULD_DENY, broker_reason="",
        kernel_decision=Verdict.UNAVAILABLE, kernel_reason="", kernel_enforcer=None, kernel_hook=None,
        kernel_errno=None, kernel_evaluation=Evaluation.NONE, syscall=None, origin="guest.py:3 in f", actor=None,
        count=2, first_seen=0, last_seen=0, suggestion=None, retryable=False, reported_by=Reporter.GUEST,
    )  # fmt: skip
    return DenialEvent(**(given | fields))


EVENTS = [_event(capability, target) for capability, target in SEEN]


def test_what_else_a_call_needed_is_learned_with_it() -> None:
    """One call is one event, also in monitor mode."""
    made = _event(C.FS_CREATE, "/srv/out/report.txt", also=("fs.write /srv/out/report.txt",))
    broker = Broker(compile_policy(learn([made])))
    assert broker.decide(C.FS_WRITE, "/srv/out/report.txt").verdict is Verdict.ALLOW
    assert broker.decide(C.FS_READ, "/srv/out/report.txt").verdict is Verdict.DENY


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_the_same_run_passes_and_the_floor_does_not(level: int) -> None:
    policy = learn(EVENTS, generalise=level)
    broker = Broker(compile_policy(policy))
    for capability, target in SEEN:
        expected = Verdict.DENY if capability is C.KERNEL_BPF else Verdict.ALLOW
        assert broker.decide(capability, target).verdict is expected
    assert policy.mode is Mode.ENFORCE
    assert policy.name == "learned"


@pytest.mark.parametrize(
    ("level", "allowed", "refused"),
    [
        (0, [], [(C.FS_READ, "/srv/data/e.csv"), (C.FS_CREATE, "/srv/out/x"), (C.IMPORT_MODULE, "numpy.fft")]),
        (1, [(C.FS_READ, "/srv/data/e.csv"), (C.FS_CREATE, "/srv/out/x"), (C.FS_WRITE, "/srv/out/x"),
             (C.IMPORT_MODULE, "numpy.fft")],
         [(C.FS_READ, "/srv/out/x"), (C.FS_READ, "/etc/passwd"), (C.FS_READ, "/srv/other")]),
        (2, [(C.FS_WRITE, "/srv/out/x")], [(C.FS_READ, "/etc/passwd"), (C.FS_READ, "/srv/other")]),
        (3, [(C.FS_WRITE, "/srv/out/x")], [(C.FS_READ, "/etc/passwd"), (C.NET_CONNECT, "10.0.0.6:5432")]),
    ],
)  # fmt: skip
def test_each_level_reaches_as_far_as_it_says(level: int, allowed: list, refused: list) -> None:
    broker = Broker(compile_policy(learn(EVENTS, generalise=level)))
    assert [key for key in allowed if broker.decide(*key).verdict is not Verdict.ALLOW] == []
    assert [key for key in refused if broker.decide(*key).verdict is not Verdict.DENY] == []


def test_level_3_merges_neighbours() -> None:
    events = [_event(C.NET_CONNECT, f"10.0.0.{host}:443") for host in (1, 2, 3)]
    events += [_event(C.FS_READ, f"/srv/data/{month}/x.csv") for month in ("jan", "feb")]
    policy = learn(events, generalise=3, base=Policy(name="base"))
    assert [rule.text for rule in policy.rules] == [
        "fs: {path: /srv/data, allow: [read]}",
        'net: {connect: "10.0.0.0/24:443"}',
    ]


@pytest.mark.parametrize("path", ["/etc/x", "/home/me/x", "/root/x", "/tmp/x", "/home/me/.ssh/x", "/proc/1/x", "/x"])
def test_places_that_many_share_are_never_granted_whole(path: str) -> None:
    events = [_event(C.FS_READ, path + str(i)) for i in range(9)]
    policy = learn(events, generalise=3, base=Policy())
    assert [rule.path for rule in policy.files] == [path + str(i) for i in range(9)]


def test_the_text_says_where_every_rule_comes_from() -> None:
    text = learn_yaml(EVENTS)
    assert load_bytes(text.encode()) == learn(EVENTS)
    assert "still refused (2): kernel.bpf bpf" in text
    line = next(line for line in text.splitlines() if "/srv/data" in line)
    assert line.endswith("# 8 times, first at guest.py:3 in f")


def test_hostile_targets_neither_break_nor_forge_the_text() -> None:
    events = [
        _event(C.FS_READ, "/srv/a\n- {path: /, allow: [read]}"),
        _event(C.FS_READ, "/srv/a # b: *c", origin="x\ny: [z]"),
        _event(C.FS_READ, "/srv/back\\slash"),
        _event(C.FS_READ, "/srv/" + "x" * 9000),
        _event(C.NET_CONNECT, "evil:1\n- {connect: '*:*'}"),
        _event(C.IMPORT_MODULE, "os; import sys"),
    ]
    text = learn_yaml(events, generalise=0, base=Policy(name="base"))
    policy = load_bytes(text.encode())
    assert [rule.path for rule in policy.files] == ["/srv/a # b: *c", "/srv/back\\slash"]
    assert policy.network == ()


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(SandboxError, match="no such level"):
        learn([], generalise=4)
    assert Policy.learn([]).rules == Policy.preset("compute").rules


def _without(policy: Policy, base: Policy) -> list[Policy]:
    """Return the policy without each rule that was learned, and with what the base said instead."""
    found = []
    for field in ("files", "network", "processes", "imports"):
        rules, known = getattr(policy, field), getattr(base, field)
        for rule in rules:
            if rule.allow and rule not in known:
                before = tuple(one for one in known if one.sort_key == rule.sort_key)
                rest = tuple(other for other in rules if other is not rule)
                found.append(msgspec.structs.replace(policy, **{field: rest + before}))
    return found


_PLACES = st.sampled_from(["/srv/a", "/srv/a/b", "/srv/a/b/c", "/srv/b", "/usr/bin/git", "/etc/x", "/srv"])
_OPERATIONS = st.one_of(
    st.tuples(st.sampled_from([C.FS_READ, C.FS_WRITE, C.FS_CREATE, C.FS_DELETE, C.FS_METADATA, C.FS_EXEC]), _PLACES),
    st.tuples(st.just(C.PROCESS_EXEC), _PLACES),
    st.just((C.PROCESS_FORK, "fork")),
    st.tuples(st.just(C.NET_CONNECT), st.sampled_from(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[::1]:80"])),
    st.tuples(st.just(C.NET_BIND), st.sampled_from(["127.0.0.1:0", "127.0.0.1:80"])),
    st.tuples(
        st.sampled_from([C.IMPORT_MODULE, C.IMPORT_NATIVE]),
        st.sampled_from(["json", "yaml", "yaml._yaml", "numpy", "numpy.linalg", "pandas", "json.decoder"]),
    ),
)
_DENYING = Policy(name="base").deny("/srv/a/b").deny_connect("10.0.0.0/24:*").deny_import("json")
_LEARNERS = st.sampled_from(
    [
        Policy(name="base"),
        _DENYING,
        Policy.preset("compute").with_name("base"),
    ]
)


@pytest.mark.slow
@given(st.sets(_OPERATIONS, min_size=1, max_size=12), st.integers(0, 3), _LEARNERS)
@settings(max_examples=examples(40))
@example({(C.FS_WRITE, "/srv"), (C.FS_WRITE, "/srv/a")}, 1, Policy(name="base"))
@example(
    {(C.NET_CONNECT, "[::1]:80"), (C.FS_READ, "/srv/a/b"), (C.FS_EXEC, "/srv/a/b/c"), (C.FS_CREATE, "/srv")},
    2,
    Policy(name="base"),
)
@example({(C.FS_WRITE, "/srv/a"), (C.FS_WRITE, "/srv"), (C.IMPORT_MODULE, "numpy.linalg")}, 1, _DENYING)
def test_nothing_is_refused_any_more_and_no_rule_is_needless(seen: set, level: int, base: Policy) -> None:
    refused = [one for one in seen if Broker(compile_policy(base)).decide(*one).code is not None]
    policy = learn([_event(*one) for one in refused], generalise=level, base=base)
    assert learn([_event(*one) for one in sorted(refused, reverse=True)], generalise=level, base=base) == policy
    broker = Broker(compile_policy(policy))
    assert [one for one in refused if broker.decide(*one).code is not None] == []
    for less in _without(policy, base):
        assert any(Broker(compile_policy(less)).decide(*one).code is not None for one in refused), less.to_yaml()


@pytest.mark.parametrize(
    ("seen", "learned"),
    [
        # what a package reads and what it requires come with it; only what the guest itself named needs a rule
        (
            [(C.IMPORT_MODULE, "pandas"), (C.IMPORT_NATIVE, "pandas._libs.lib"), (C.IMPORT_NATIVE, "numpy.core._x"),
             (C.FS_READ, "@pandas/__init__.py"), (C.FS_READ, "@pandas/core/__pycache__/api.cpython-311.pyc")],
            ["import: {native: [pandas]}"],
        ),
        ([(C.PROCESS_EXEC, "/usr/bin/git"), (C.PROCESS_FORK, "fork")], ["process: {exec: /usr/bin/git}"]),
        ([(C.PROCESS_FORK, "fork")], ["process: {fork: true}"]),
    ],
)  # fmt: skip
def test_one_rule_stands_for_what_it_brings_along(seen: list, learned: list[str]) -> None:
    pytest.importorskip("pandas")
    home = os.path.dirname(importlib.util.find_spec("pandas").origin or "")
    events = [_event(capability, target.replace("@pandas", home)) for capability, target in seen]
    base = Policy.preset("compute").with_name("base")
    assert [rule.text for rule in learn(events, base=base).rules if rule not in base.rules] == learned


def test_one_variable_stands_for_the_files_of_which_it_consists() -> None:
    events = [_event(C.FS_READ, f"/sys/fs/cgroup/{name}") for name in ("cpu.max", "cpu/cpu.cfs_quota_us")]
    learned = learn(events, base=Policy(name="base"))
    assert [rule.text for rule in learned.rules] == ['fs: {path: "@processors", allow: [read]}']


def test_at_level_0_no_variable_stands_for_a_file() -> None:
    policy = learn([_event(C.FS_READ, "/sys/fs/cgroup/cpu.max")], generalise=0, base=Policy())
    assert [rule.path for rule in policy.files] == ["/sys/fs/cgroup/cpu.max"]


def test_the_heading_warns_of_what_was_learned() -> None:
    text = learn_yaml([_event(C.FS_READ, "/"), _event(C.FS_READ, "/srv/x", origin=None)], base=Policy(name="base"))
    assert "# danger: fs: {path: /, allow: [read]}: every file that is not denied can be read" in text
    assert "/srv/x" not in text.partition("fs:\n")[2], "it lies below"


def test_the_heading_tells_which_denial_was_lifted() -> None:
    base = Policy(name="base").deny_read("/srv/private")
    text = learn_yaml([_event(C.FS_READ, "/srv/private/x", code=DenialCode.EXPLICIT_DENY)], base=base)
    assert "# allowed against a rule of the base (2): fs.read /srv/private/x" in text


MADE_UP = [
    (C.FS_CREATE, "/tmp/tmpab12cd34"), (C.FS_WRITE, "/tmp/tmpab12cd34"), (C.FS_READ, "/tmp/tmpab12cd34"),
    (C.FS_DELETE, "/tmp/tmpab12cd34"), (C.FS_CREATE, "/tmp/nodir-x1/y"), (C.FS_CREATE, "/tmp/nodir-x1"),
]  # fmt: skip


def test_made_up_names_in_a_shared_directory_are_granted_as_the_directory() -> None:
    """Else the next run, which makes up others, is refused."""
    events = [_event(*one) for one in [*MADE_UP, (C.FS_READ, "/tmp/given.csv")]]
    policy = learn(events, base=Policy())
    assert [rule.text for rule in policy.files] == ["fs: {path: /tmp, allow: [read, write, create, delete]}"]
    assert "# /tmp is everybody's" in learn_yaml(events, base=Policy())
    exact = learn(events, generalise=0, base=Policy())
    assert "/tmp" not in [rule.path for rule in exact.files]


def test_a_made_up_name_is_known_by_its_look_where_it_was_left_behind(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pyisolate.policy.learning._SCRATCH", (str(tmp_path),))
    # as /var is
    monkeypatch.setattr("pyisolate.policy.learning._too_wide", lambda path, hidden: str(tmp_path).startswith(path))
    for name in ("sem.Xy12zW", "report.txt"):
        (tmp_path / name).touch()
    left = learn([_event(C.FS_CREATE, f"{tmp_path}/sem.Xy12zW"), _event(C.FS_READ, f"{tmp_path}/sem.Xy12zW")])
    assert [rule.path for rule in left.files if rule.path.startswith("/")] == [str(tmp_path)]
    assert learn_module._MADE_UP.search("/tmp/tmpab12cd34")
    for steady in ("report.txt", "results", "my_table.parquet"):
        assert not learn_module._MADE_UP.search("/tmp/" + steady)


def test_a_port_that_the_kernel_picked_is_another_one_next_time() -> None:
    seen = [(C.NET_BIND, "127.0.0.1:0"), (C.NET_LISTEN, "127.0.0.1:37563"), (C.NET_CONNECT, "127.0.0.1:37563")]
    events = [_event(*one) for one in seen]
    exact = learn(events, base=Policy())
    assert [rule.text for rule in exact.network] == [
        'net: {connect: "127.0.0.1:37563"}',
        'net: {bind: "127.0.0.1:0"}',
    ], "to listen on what bind picked takes no rule"
    assert "# 127.0.0.1:37563 is a port that the kernel picked" in learn_yaml(events, base=Policy())
    wider = Broker(compile_policy(learn(events, generalise=2, base=Policy())))
    assert wider.decide(C.NET_CONNECT, "127.0.0.1:40000").verdict is Verdict.ALLOW
    assert wider.decide(C.NET_CONNECT, "127.0.0.1:80").verdict is Verdict.DENY


def test_what_native_code_made_and_removed_is_granted_by_its_directory(tmp_path: Path) -> None:
    """Its record only tells of writing: when it is judged, the file is there."""
    journal = str(tmp_path / "data.db-journal")
    events = [_event(c, journal, broker_decision=Verdict.NOT_CONSULTED) for c in (C.FS_WRITE, C.FS_DELETE)]
    policy = learn(events, base=Policy())
    assert [(rule.path, rule.allow) for rule in policy.files] == [(str(tmp_path), ("write", "create", "delete"))]
