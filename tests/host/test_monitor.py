"""Monitor mode and shadow policies: all but the floor goes through, and is told as enforcing would have refused it."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.native.seccomp import number_of
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.require import require
from tests.thread_limits import WITHOUT_UNHELD

#: Each line prints what became of it; `raw` is what native code meets. /etc/hostname stands for what a rule grants.
JOB = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def told(ask):
    try:
        return str(ask())
    except OSError as error:
        return type(error).__name__
def raw(path):
    descriptor = libc.open(path, 0)
    return "refused" if descriptor < 0 else os.close(descriptor)
print(told(lambda: len(open("/etc/passwd").read()) > 0))
print(raw(b"/etc/group"))
print(told(lambda: socket.create_connection(("127.0.0.1", PORT), 5).close()))
print("floor", libc.unshare(0x10000000))
"""
FILE, CONNECTION = ("fs.read", "/etc/passwd"), "net.connect"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def events_of(sandbox: pyisolate.Sandbox, port: int) -> tuple[list[str], dict]:
    """Run the job; return what it printed and its events by capability and target."""
    printed = sandbox.exec(JOB.replace("PORT", str(port))).stdout.splitlines()
    return printed, {(e.capability.value, e.target, e.shadow): e for e in sandbox.get_denial_events()}


def counted(policy: str) -> dict[str, float]:
    """Return the denials that the metrics count for one policy, by mode."""
    found: dict[str, float] = {}
    for family in pyisolate.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "pyisolate_denials_total" and sample.labels["policy"] == policy:
                found[sample.labels["mode"]] = found.get(sample.labels["mode"], 0) + sample.value
    return found


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_monitor_mode_lets_through_and_says_why_enforcing_would_not(
    supervisor: pyisolate.Supervisor, port: int, isolation: str
) -> None:
    name = f"watched-{isolation}"
    policy = with_ctypes().with_name(name)
    with supervisor.spawn("m", policy, mode="monitor", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        printed, events = events_of(sandbox, port)
        assert any("monitor" in note for note in sandbox.enforcement.notes)
    assert printed == ["True", "None", "None", "floor -1"]
    for key in ((*FILE, False), (CONNECTION, f"127.0.0.1:{port}", False)):
        event = events[key]
        assert (event.mode, event.would_deny, event.code) == ("monitor", True, "NOT_GRANTED")
        assert event.would_deny_reason == f"no rule grants {key[0]}"
        assert event.broker_decision == "would_deny"
        assert event.count == 1
    (floor,) = [event for event in events.values() if event.code == "ALWAYS_DENIED"]
    assert (floor.capability, floor.mode, floor.would_deny) == ("kernel.namespace", "enforce", False)
    # the metrics keep apart what was refused and what would have been
    modes = counted(name)
    assert modes["enforce"] == 1
    assert modes["monitor"] == sum(event.count for event in sandbox.get_denial_events()) - 1  # also what came late


def test_the_same_job_is_refused_when_enforced(supervisor: pyisolate.Supervisor, port: int) -> None:
    with supervisor.spawn("e", with_ctypes()) as sandbox:
        printed, events = events_of(sandbox, port)
    assert printed == ["PolicyError", "refused", "PolicyError", "floor -1"]
    assert {(e.mode, e.would_deny, e.would_deny_reason) for e in events.values()} == {("enforce", False, None)}


def test_full_telemetry_tells_what_native_code_opened_and_counts_it_once(port: int) -> None:
    with (
        pyisolate.Supervisor(pool_size=0, telemetry="full") as supervisor,
        supervisor.spawn("n", with_ctypes(), mode="monitor") as sandbox,
    ):
        printed, events = events_of(sandbox, port)
        assert printed[1] == "None"
    native = events["fs.read", "/etc/group", False]
    assert (native.broker_decision, native.kernel_decision, native.would_deny) == ("not_consulted", "would_deny", True)
    assert native.suggestion == {"fs": [{"path": "/etc/group", "allow": ["read"]}]}
    assert native.reported_by == "kernel"
    both = events[(*FILE, False)]
    assert (both.broker_decision, both.kernel_decision, both.count) == ("would_deny", "would_deny", 1)
    assert both.kernel_evaluation == "probed"


def test_what_native_code_opens_through_the_c_library_would_be_refused_by_default_too() -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None)
print(libc.open(b"/etc/group", 0) >= 0, libc.syscall(OPENAT, -100, b"/etc/passwd", 0) >= 0)
"""
    with (
        pyisolate.Supervisor(pool_size=0) as supervisor,
        supervisor.spawn("q", with_ctypes(), mode="monitor") as sandbox,
    ):
        opened = sandbox.exec(code.replace("OPENAT", str(number_of("openat")))).stdout
        events = {event.target: event for event in sandbox.get_denial_events()}
        assert any("telemetry='full'" in note for note in sandbox.enforcement.notes), (
            "the report says what it takes to hide"
        )
    assert opened == "True True\n"
    for event in (events["/etc/group"], events["/etc/passwd"]):
        assert (event.broker_decision, event.kernel_decision, event.would_deny) == ("not_consulted", "would_deny", True)


def test_the_counter_says_of_a_file_what_its_event_says() -> None:
    policy = Policy.preset("compute").with_name("counted-once")
    with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn("m", policy, mode="monitor") as sandbox:
        sandbox.exec("for _ in range(3): open('/etc/hostname').close()")
        (event,) = sandbox.get_denial_events()
    assert (event.kernel_decision, event.reported_by, event.count) == ("would_deny", "kernel", 3)
    families = pyisolate.metrics.registry.collect()
    samples = [one for family in families if family.name == "pyisolate_denials" for one in family.samples]
    of_it = [one for one in samples if one.labels["policy"] == policy.name and one.name.endswith("_total")]
    assert [(one.labels["kernel_decision"], one.value) for one in of_it] == [("would_deny", 3)]


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_one_rule_group_can_be_watched_while_the_others_are_enforced(
    supervisor: pyisolate.Supervisor, port: int, isolation: str
) -> None:
    policy = with_ctypes(Policy.from_dict({"extends": "compute", "name": "half", "modes": {"net": "monitor"}}))
    with supervisor.spawn("g", policy, isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        printed, events = events_of(sandbox, port)
    assert printed == ["PolicyError", "refused", "None", "floor -1"]
    assert (events[(*FILE, False)].mode, events[(*FILE, False)].would_deny) == ("enforce", False)
    connection = events[CONNECTION, f"127.0.0.1:{port}", False]
    assert (connection.mode, connection.would_deny) == ("monitor", True)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_shadow_policy_says_what_it_would_refuse_and_refuses_nothing(
    supervisor: pyisolate.Supervisor, port: int, isolation: str
) -> None:
    own = with_ctypes().allow_read("/etc/passwd").allow_connect(f"127.0.0.1:{port}")
    candidate = with_ctypes().with_name("candidate").deny_import("ctypes")
    with supervisor.spawn("s", own, shadow=candidate, isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        printed, events = events_of(sandbox, port)
    assert printed == ["True", "refused", "None", "floor -1"]
    for key in (FILE, (CONNECTION, f"127.0.0.1:{port}"), ("import.module", "ctypes")):
        event = events[(*key, True)]
        assert (event.policy, event.policy_version) == ("candidate", candidate.version)
        assert (event.mode, event.would_deny) == ("monitor", True)
        assert (*key, False) not in events, "the policy in force allows it"
    assert events["import.module", "ctypes", True].code == "EXPLICIT_DENY"


@pytest.mark.parametrize("mode", ["audit", "Monitor", "", "off"])
def test_an_unknown_mode_is_refused_when_it_is_read(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    for text in (f"mode: {mode!r}\n", f"modes: {{fs: {mode!r}}}\n"):
        file.write_text(text)
        with pytest.raises(pyisolate.PolicySyntaxError):
            Policy.load(file)
    with pytest.raises(pyisolate.PolicySyntaxError):
        Policy().with_mode(mode)
    assert Policy().mode == "enforce"


def test_a_random_number_is_called_by_the_function_that_was_asked_for_it() -> None:
    policy = Policy.from_dict({"version": 1, "name": "seeded", "extends": "compute", "random": {"allow": False}})
    with pyisolate.Supervisor() as supervisor:
        for mode in ("enforce", "monitor"):
            with supervisor.spawn(mode, policy, mode=mode) as sandbox:
                for call in ("os.urandom", "os.getrandom"):
                    sandbox.exec(f"import os\ntry: {call}(4)\nexcept OSError: pass")
                assert [event.target for event in sandbox.get_denial_events()] == ["os.urandom", "os.getrandom"]


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_names_that_lead_to_the_workspace_are_refused_in_neither_mode(
    supervisor: pyisolate.Supervisor, mode: str
) -> None:
    with supervisor.spawn("names", pyisolate.Policy.preset("compute").with_mode(mode)) as sandbox:
        sandbox.exec("import multiprocessing, os; multiprocessing.Lock(); open('/dev/shm/own', 'w').close()")
        assert sandbox.eval("os.path.samefile('/dev/shm/own', '/sandbox/workspace/own')")
        if not sys.prefix.startswith("/tmp/"):  # then the policy speaks of what is below
            sandbox.exec("os.chdir('/tmp'); os.listdir('.'); os.listdir('/tmp'); os.chdir('/')")
        assert sandbox.get_denial_events() == []
        sandbox.exec("try: os.listdir('/var/tmp')\nexcept PermissionError: pass")  # the control
        assert [event.target for event in sandbox.get_denial_events()] == ["/var/tmp"]


def test_a_database_that_enforcing_hides_is_opened_once(supervisor: pyisolate.Supervisor, place: Path) -> None:
    (place / "data").chmod(0o666)  # else it is opened once more, to be read
    source = f"import sqlite3; sqlite3.connect('{place}/data')"
    with supervisor.spawn("hidden", pyisolate.Policy.preset("compute").with_mode("monitor")) as sandbox:
        sandbox.exec(source)
        (event,) = [event for event in sandbox.get_denial_events() if event.capability != "fs.lookup"]
        assert (event.capability, event.target, event.count) == ("fs.write", f"{place}/data", 1)
        assert event.also == (f"fs.read {place}/data",)
        assert (event.broker_decision, event.kernel_decision) == ("would_deny", "would_deny")
    granted = pyisolate.Policy.preset("compute").allow_read(place / "data").allow_write(place / "data")
    with supervisor.spawn("granted", granted.with_mode("monitor")) as sandbox:  # the control
        sandbox.exec(source)
        assert sandbox.get_denial_events() == []


#: Ways to open that hooks ask about by different rights, each by the interpreter and then by native code.
_OPENINGS = ("O_RDONLY|O_TRUNC", "O_RDONLY|O_CREAT|O_TRUNC", "O_RDWR|O_TRUNC", "O_WRONLY", "O_CREAT|O_EXCL|O_RDWR")


@pytest.mark.parametrize("flags", _OPENINGS)
def test_an_opening_is_one_event_of_the_call_that_was_asked_about_and_of_no_other(tmp_path: Path, flags: str) -> None:
    path, value = tmp_path / "one", "|".join(f"os.{flag}" for flag in flags.split("|"))
    tmp_path.chmod(0o777)
    for directory in tmp_path.parents[:2]:
        directory.chmod(0o755)
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None)
def by_interpreter(): os.close(os.open({str(path)!r}, {value}, 0o666))
def by_native_code(): assert libc.open({str(path).encode()!r}, {value}, 0o666) >= 0
"""

    def again() -> None:
        path.unlink(missing_ok=True)
        if "O_EXCL" not in flags:
            path.write_text("x")
            path.chmod(0o666)

    with pyisolate.spawn("o", with_ctypes(), mode="monitor") as sandbox:
        sandbox.exec(code)
        before = len(sandbox.get_denial_events())
        for call in ("by_native_code", "by_interpreter", "by_native_code", "by_interpreter"):
            again()
            sandbox.exec(f"{call}()")
        events = sandbox.get_denial_events()[before:]
    assert len({(event.capability, event.target, event.also) for event in events}) == 1
    told = {event.broker_decision.value: event for event in events}
    assert {name: one.count for name, one in told.items()} == {"not_consulted": 2, "would_deny": 2}
    assert {event.kernel_decision for event in events} == {"would_deny"}


@pytest.mark.parametrize("call", ["sendto(b'x', 0x20000000, where)", "sendmsg([b'x'], [], 0x20000000, where)"])
def test_a_connection_made_by_sending_is_one_event_and_a_connect(
    supervisor: pyisolate.Supervisor, port: int, call: str
) -> None:
    """MSG_FASTOPEN: the hook asks about sending, and the kernel sees a connection."""
    require("seccomp", inside.plan(supervisor).listener is not None, "nothing but a listener sees what is let through")
    policy = Policy.preset("compute").allow_connect("127.0.0.1:1")
    source = f"import socket\nwhere = ('127.0.0.1', {port})\nsocket.socket().{call}"
    with supervisor.spawn("fast", policy, mode="monitor") as sandbox:
        with contextlib.suppress(pyisolate.SandboxError):  # the kernel may know no TCP Fast Open
            sandbox.exec(source)
        (event,) = [one for one in sandbox.get_denial_events() if one.capability.family == "net"]
    assert (event.capability, event.target, event.count) == ("net.connect", f"127.0.0.1:{port}", 1)
    assert event.origin is not None
    assert event.broker_decision == "would_deny"
