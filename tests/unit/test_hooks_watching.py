"""Hooks that let through: one request counts once, and a shadow policy tells beside the one in force."""

from __future__ import annotations

from typing import Any

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.errors import PolicyError
from pyisolate.hooks import GuestHooks, Shadow
from pyisolate.hooks.deduplicate import Announcements
from pyisolate.policy import Policy
from pyisolate.policy.broker import Broker
from pyisolate.policy.compile import compile_policy
from pyisolate.records import BrokerRecord

CONNECT = (Capability.NET_CONNECT, "127.0.0.1:80", False)


def hooks_of(policy: Policy, shadow: Policy | None = None, **options: Any) -> tuple[GuestHooks, list[BrokerRecord]]:
    seen: list[BrokerRecord] = []
    compiled = compile_policy(policy)
    other = None if shadow is None else compile_policy(shadow)
    watched = None if other is None else Shadow(Broker(other), other)
    return GuestHooks(Broker(compiled), seen.append, compiled=compiled, shadow=watched, **options), seen


def test_what_is_announced_and_then_done_counts_once_each_time() -> None:
    announcements = Announcements()
    steps = ("http.client.connect", "create_connection", "ask", "socket.getaddrinfo", "socket.connect")
    for _ in range(3):
        assert [announcements.counted(CONNECT, step) for step in steps] == [False, True, True, True, True]
    assert not announcements.counted(CONNECT, "socket.connect")  # not announced
    assert not announcements.counted(CONNECT, "socket.getaddrinfo")
    assert not announcements.counted(CONNECT, "socket.getaddrinfo")  # asked again, so another request
    assert not announcements.counted((CONNECT[0], "127.0.0.1:81", False), "socket.connect")


def test_a_subprocess_in_monitor_mode_is_one_record() -> None:
    hooks, seen = hooks_of(Policy.preset("none").with_mode("monitor"))
    hooks.callback("subprocess.Popen", ("/usr/bin/true", ["true"], None, None))
    hooks.ask_all(((Capability.PROCESS_EXEC, "/usr/bin/true", {}),), hook="fork_exec")
    assert [(r.capability, r.target, r.verdict, r.count) for r in seen] == [
        ("process.exec", "/usr/bin/true", "would_deny", 1)
    ]


def test_an_error_while_files_are_monitored_is_no_refusal() -> None:
    for mode, expected in (("monitor", None), ("enforce", Verdict.ALLOW)):
        hooks, _ = hooks_of(Policy.preset("none").allow_read("/srv").with_mode(mode, "fs"))
        hooks.callback("open", ("/srv/file", "r", 0))
        record = hooks.attribute(PermissionError(13, "Permission denied", "/srv/file"))
        assert (record and record.verdict) == expected


@pytest.mark.parametrize("granted", [True, False])
def test_the_shadow_policy_tells_and_the_one_in_force_decides(granted: bool) -> None:
    own = Policy.preset("none").allow_read("/srv") if granted else Policy.preset("none")
    hooks, seen = hooks_of(own, Policy.preset("none").with_name("candidate"))
    if granted:
        hooks.callback("open", ("/srv/file", "r", 0))
    else:
        with pytest.raises(PolicyError):
            hooks.callback("open", ("/srv/file", "r", 0))
    told = [(r.shadow, r.verdict) for r in seen]
    assert told == [(True, Verdict.WOULD_DENY)] + ([] if granted else [(False, Verdict.DENY)])


def test_a_shadow_that_grants_tells_nothing_and_grants_nothing() -> None:
    hooks, seen = hooks_of(Policy.preset("none"), Policy.preset("none").allow_read("/srv"))
    with pytest.raises(PolicyError):
        hooks.callback("open", ("/srv/file", "r", 0))
    assert [r.shadow for r in seen] == [False]


def test_imports_are_told_every_time_though_the_rule_in_force_remembers_them() -> None:
    hooks, seen = hooks_of(Policy.preset("compute"), Policy.preset("none").allow_import("json"))
    for _ in range(3):
        hooks.imports.module("csv")
        hooks.imports.module("json")
    hooks.flush()
    assert [(r.target, r.shadow) for r in seen] == [("csv", True), ("csv", True)]
    assert sum(r.count for r in seen) == 3


def test_the_floor_is_no_shadow_policys_doing() -> None:
    hooks, seen = hooks_of(Policy.preset("none"), Policy.preset("none"))
    with pytest.raises(PolicyError):
        hooks.ask(Capability.KERNEL_MOUNT, "chroot /")
    assert [r.shadow for r in seen] == [False]


def test_random_numbers_that_only_the_shadow_denies_are_asked_about() -> None:
    hooks, _ = hooks_of(Policy.preset("compute"), Policy.preset("none"))
    assert (hooks.random_denied, hooks.random_asked) == (False, True)
    monitored, _ = hooks_of(Policy.preset("none").with_mode("monitor"))
    assert (monitored.random_denied, monitored.random_asked) == (False, True)
    enforced, _ = hooks_of(Policy.preset("none"))
    assert (enforced.random_denied, enforced.random_asked) == (True, True)
