"""What the file enforcer says to a call that the listener only watched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.kernel.watched import WatchedFiles
from pyisolate.policy import Policy, compile_policy
from pyisolate.policy.compiled import CompiledPolicy
from pyisolate.telemetry.event import Evaluation, KernelRecord


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = Path(os.path.realpath(tmp_path))
    for name in ("granted", "other"):
        (root / name).mkdir()
        (root / name / "file").write_text("x")
    (root / "alias").symlink_to(root / "granted")
    (root / "granted" / "out").symlink_to(root / "other" / "file")
    return root


@pytest.fixture
def policy(tree: Path) -> CompiledPolicy:
    return compile_policy(Policy.preset("none").allow_read(tree / "granted").allow_write(tree / "granted"))


def seen(target: object, capability: Capability = Capability.FS_READ, syscall: str = "openat") -> KernelRecord:
    return KernelRecord(
        sandbox_id="s",
        enforcer="seccomp-notify",
        hook=f"seccomp:{syscall}",
        capability=capability,
        target=str(target),
        verdict=Verdict.ALLOW,
        syscall=syscall,
    )


def judged(policy: CompiledPolicy, *args: Any, **kwargs: Any) -> KernelRecord:
    return WatchedFiles().judge(seen(*args, **kwargs), policy)


def test_what_is_granted_stays_as_it_is(tree: Path, policy: CompiledPolicy) -> None:
    record = seen(tree / "granted/file")
    assert WatchedFiles().judge(record, policy) is record


def test_what_is_not_granted_is_a_denial_with_its_reason(tree: Path, policy: CompiledPolicy) -> None:
    record = judged(policy, tree / "other/file")
    assert (record.verdict, record.code) == (Verdict.DENY, DenialCode.SCOPE_INSUFFICIENT)
    assert record.evaluation is Evaluation.PROBED
    assert record.enforcer == "landlock"
    assert str(tree / "granted") in (record.presented or "")


def test_names_are_followed_both_ways(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, tree / "alias/file").verdict is Verdict.ALLOW
    assert judged(policy, tree / "granted/out").verdict is Verdict.DENY


def test_a_call_about_a_name_does_not_follow_it(tree: Path, policy: CompiledPolicy) -> None:
    made = judged(policy, tree / "granted/out", Capability.FS_CREATE, "symlink")
    assert made.verdict is Verdict.ALLOW
    removed = judged(policy, tree / "granted/gone", Capability.FS_DELETE, "unlink")
    assert removed.verdict is Verdict.ALLOW
    elsewhere = judged(policy, tree / "other/new", Capability.FS_CREATE, "mkdir")
    assert (elsewhere.verdict, elsewhere.capability) == (Verdict.DENY, Capability.FS_CREATE)


def test_creating_what_is_there_is_writing(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, tree / "other/file", Capability.FS_CREATE).capability is Capability.FS_WRITE
    assert judged(policy, tree / "other/new", Capability.FS_CREATE).capability is Capability.FS_CREATE


def test_what_is_not_there_is_no_refusal(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, tree / "other/none").verdict is Verdict.ALLOW


def test_relative_names_and_other_records_are_left_alone(tree: Path, policy: CompiledPolicy) -> None:
    assert judged(policy, "other/file").verdict is Verdict.ALLOW
    assert judged(policy, "10.0.0.1:80", Capability.NET_CONNECT, "connect").verdict is Verdict.ALLOW


def test_in_monitor_mode_it_says_what_enforcing_would_have_done(tree: Path) -> None:
    monitored = compile_policy(Policy.preset("none").allow_read(tree / "granted").with_mode(Mode.MONITOR))
    record = judged(monitored, tree / "other/file")
    assert (record.verdict, record.code) == (Verdict.WOULD_DENY, DenialCode.SCOPE_INSUFFICIENT)
    assert judged(monitored, tree / "granted/file").verdict is Verdict.ALLOW


def test_beside_an_observer_only_what_is_absent_is_told(tree: Path) -> None:
    readable = compile_policy(Policy.preset("none").allow_read(tree / "granted"))
    watched = WatchedFiles()
    writing = seen(tree / "granted/file", Capability.FS_WRITE)
    assert watched.judge(writing, readable).verdict is Verdict.DENY
    assert watched.judge(writing, readable, absent_only=True).verdict is Verdict.ALLOW, "it answers EACCES: observed"
    assert watched.judge(seen(tree), readable, absent_only=True).verdict is Verdict.ALLOW, "on the way to a grant"
    assert watched.judge(seen(tree / "other/file"), readable, absent_only=True).verdict is Verdict.DENY


def test_brokers_are_kept_by_version_and_bounded(tree: Path) -> None:
    watched = WatchedFiles()
    for number in range(100):
        compiled = compile_policy(Policy.preset("none").allow_read(tree / str(number)))
        watched.judge(seen(tree / "other/file"), compiled)
    assert len(watched._brokers) <= 64
