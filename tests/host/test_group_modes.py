"""A rule group's mode is the same for every enforcer: what is enforced under a monitor policy is really refused."""

from __future__ import annotations

import os

import pytest

import pyisolate
from pyisolate import Policy
from tests.require import require

#: operation -> (group, code that returns a negative number when it is refused)
OPERATIONS = {
    "memory.exec": ("import", "c.mmap(0, 4096, 7, 34, -1, 0)"),
    "ipc.sysv": ("process", "c.shmget(0, 4096, 0o1600)"),
    "ipc.posix": ("process", "c.syscall(240, b'modes', 0o102, 0o600, 0)"),
}
SOURCE = """
import ctypes
c = ctypes.CDLL(None)
c.mmap.restype = c.syscall.restype = ctypes.c_long
{code}
"""


def attempt(supervisor: pyisolate.Supervisor, capability: str, mode: str, other: str) -> tuple[bool, list[str]]:
    group, code = OPERATIONS[capability]
    policy = Policy.from_dict(
        {
            "version": 1,
            "name": "modes",
            "extends": "compute",
            "mode": mode,
            "modes": {group: other},
            "import": {"allow": ["ctypes", "_ctypes"], "native": ["ctypes", "_ctypes"]},
        }
    )
    with supervisor.spawn("modes", policy) as sandbox:
        result = sandbox.exec(SOURCE.format(code=code)).value
        events = [event for event in sandbox.get_denial_events() if event.capability == capability]
    assert isinstance(result, int)
    return result < 0, [event.kernel_decision.value for event in events]


@pytest.mark.parametrize("capability", OPERATIONS)
def test_an_enforced_group_under_a_monitor_policy_refuses(supervisor: pyisolate.Supervisor, capability: str) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    assert attempt(supervisor, capability, "monitor", "enforce") == (True, ["deny"])


@pytest.mark.parametrize("capability", OPERATIONS)
def test_a_monitored_group_under_an_enforcing_policy_only_watches(
    supervisor: pyisolate.Supervisor, capability: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    refused, verdicts = attempt(supervisor, capability, "enforce", "monitor")
    assert verdicts == ["would_deny"]
    if capability != "ipc.posix":  # there the kernel's own quota of message queues refuses
        assert not refused


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names x86-64's system calls")
def test_a_jit_grant_lets_memory_run_and_nothing_else_be_loaded(supervisor: pyisolate.Supervisor) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    plain = Policy.preset("compute").allow_native("ctypes")
    made, loaded = "c.mmap(0, 4096, 7, 34, -1, 0)", "c.syscall(319, b'code', 1)"  # memfd_create
    with supervisor.spawn("jit", plain.allow_jit()) as granted, supervisor.spawn("none", plain) as refused:
        assert granted.exec(SOURCE.format(code=made)).value > 0
        assert granted.get_denial_events() == []
        assert granted.exec(SOURCE.format(code=loaded)).value == -1
        assert refused.exec(SOURCE.format(code=made)).value == -1
    assert [event.capability for event in granted.get_denial_events()] == ["import.native"]
    assert [event.capability for event in refused.get_denial_events()] == ["memory.exec"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names x86-64's system calls")
def test_an_io_priority_grant_reaches_the_sandboxs_own_processes_and_no_real_time(
    supervisor: pyisolate.Supervisor,
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener decides these calls")
    plain = Policy.preset("compute").allow_native("ctypes")
    idle, read, of_init = "c.syscall(251, 1, 0, 3 << 13)", "c.syscall(252, 1, 0)", "c.syscall(251, 1, 1, 3 << 13)"
    with supervisor.spawn("io", plain.allow_io_priority()) as granted, supervisor.spawn("none", plain) as refused:
        assert granted.exec(SOURCE.format(code=idle)).value == 0
        assert granted.exec(SOURCE.format(code=read)).value == 3 << 13
        assert granted.get_denial_events() == []
        for beyond in (of_init, "c.syscall(251, 1, 0, 1 << 13)", "c.syscall(251, 1, 99999, 3 << 13)"):
            assert granted.exec(SOURCE.format(code=beyond)).value == -1, beyond
        assert refused.exec(SOURCE.format(code=idle)).value == -1
    found = [(event.capability, event.code) for event in granted.get_denial_events()]
    assert found == [
        ("priority.io", "ALWAYS_DENIED"),
        ("kernel.capability", "ALWAYS_DENIED"),
        ("priority.io", "ALWAYS_DENIED"),
    ]
    event = refused.get_denial_events()[0]
    assert (event.capability, event.code, event.suggestion) == (
        "priority.io",
        "NOT_GRANTED",
        {"priority": {"io": True}},
    )
    with pytest.raises(pyisolate.EnforcementError, match=r"priority\.io"):
        supervisor.spawn("thread", plain.allow_io_priority(), isolation="thread", enforcement="best_effort")
