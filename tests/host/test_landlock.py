"""Landlock through the enforcer: each refusal next to the same operation allowed, and allowed without restriction."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from pyisolate.decision import Mode
from pyisolate.enforcement import Status
from pyisolate.errors import EnforcementError
from pyisolate.kernel import landlock as module
from pyisolate.kernel.enforcer import Enforcer
from pyisolate.kernel.landlock import LandlockEnforcer
from pyisolate.native import landlock as native
from pyisolate.native import process
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NetAction, NetRule
from tests.in_child import in_child, outcome
from tests.require import require

R, W, C, D, X, LIST = (int(FsRight[n]) for n in ("READ", "WRITE", "CREATE", "DELETE", "EXEC", "LIST"))


@pytest.fixture(scope="module", autouse=True)
def _landlock():
    found = LandlockEnforcer().probe()
    require("landlock", found.usable, found.reason)


def policy(*rules: FsRule, **more) -> CompiledPolicy:
    return CompiledPolicy(name="test", version="test", fs=tuple(sorted(rules, key=lambda rule: rule.path)), **more)


def rule(path: object, allow: int = 0, deny: int = 0, *, text: str | None = None, origin: str = "fs") -> FsRule:
    return FsRule(path=str(path), allow=allow, deny=deny, text=f"rule {path}" if text is None else text, origin=origin)


def confined(compiled: CompiledPolicy, operation) -> str:
    """Return the outcome of `operation` in a child under the policy's ruleset."""

    def body() -> str:
        process.set_no_new_privs()
        native.restrict_self(ruleset.fd)
        return outcome(operation)

    with LandlockEnforcer().prepare(compiled) as ruleset:
        return in_child(body)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("granted", "other"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "file").write_text("text")
        (tmp_path / name / "below" / "file").write_text("text")
    return tmp_path


OPERATIONS = {
    "read": (R, lambda at: (at / "below/file").read_text()),
    "list": (R, lambda at: os.listdir(at / "below")),
    "write": (W, lambda at: os.close(os.open(at / "file", os.O_WRONLY))),
    "truncate": (W, lambda at: os.truncate(at / "file", 0)),
    "create file": (C, lambda at: os.mknod(at / "new")),
    "create directory": (C, lambda at: (at / "new").mkdir()),
    "create link": (C, lambda at: (at / "new").symlink_to("x")),
    "create fifo": (C, lambda at: os.mkfifo(at / "new")),
    "delete file": (D, lambda at: (at / "file").unlink()),
    "delete directory": (D, lambda at: ((at / "below/file").unlink(), (at / "below").rmdir())),
    "move": (C | D, lambda at: (at / "file").rename(at / "below/moved")),
}
EVERYTHING = R | W | C | D | X


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("where", ["granted", "other"])
def test_an_operation_needs_its_own_right_at_its_own_place(tree: Path, name: str, where: str):
    right, operation = OPERATIONS[name]
    compiled = policy(rule(tree / "granted", right))
    without = policy(rule(tree / "granted", EVERYTHING & ~right), rule(tree / "other", EVERYTHING & ~right))
    assert confined(without, lambda: operation(tree / where)) == "EACCES"
    assert confined(compiled, lambda: operation(tree / where)) == ("ok" if where == "granted" else "EACCES")


def test_without_restriction_the_refused_operation_goes_through(tree: Path):
    assert in_child(lambda: outcome(lambda: (tree / "other/file").read_text())) == "ok"


def test_executing_needs_exec(tree: Path):
    def run() -> None:
        if os.fork() == 0:
            try:
                os.execv("/bin/true", ["true"])
            except OSError as error:
                os._exit(error.errno or 1)
        status = os.waitstatus_to_exitcode(os.wait()[1])
        if status:
            raise OSError(status, "exec")

    assert confined(policy(rule("/usr", R | X), rule("/lib64", R | X)), run) == "ok"
    assert confined(policy(rule("/usr", R)), run) == "EACCES"


def test_device_nodes_are_never_made(tree: Path):
    require("root", os.geteuid() == 0, "only root could make one at all")
    compiled = policy(rule(tree / "granted", EVERYTHING))
    assert confined(compiled, lambda: os.mknod(tree / "granted/node", 0o020666, os.makedev(1, 3))) == "EACCES"


def test_a_rule_on_a_file_grants_that_file_only(tree: Path):
    compiled = policy(rule(tree / "granted/file", EVERYTHING))
    assert confined(compiled, lambda: (tree / "granted/file").write_text("x")) == "ok"
    assert confined(compiled, lambda: (tree / "granted/below/file").read_text()) == "EACCES"


def test_a_rule_at_a_link_grants_where_it_leads(tree: Path):
    (tree / "link").symlink_to("granted")
    assert confined(policy(rule(tree / "link", R)), lambda: (tree / "granted/file").read_text()) == "ok"


def test_a_hard_link_is_judged_by_the_name_used_and_by_a_rule_of_the_file_itself(tree: Path):
    os.link(tree / "granted/file", tree / "other/second")
    read = (tree / "other/second").read_text
    assert confined(policy(rule(tree / "granted", R)), (tree / "granted/file").read_text) == "ok"
    assert confined(policy(rule(tree / "granted", R)), read) == "EACCES"
    assert confined(policy(rule(tree / "granted/file", R)), read) == "ok"
    assert confined(policy(rule(tree / "granted/file", R)), (tree / "other/file").read_text) == "EACCES"


def test_a_guest_gains_nothing_by_a_hard_link(tree: Path):
    def link() -> None:
        os.link(tree / "other/file", tree / "granted/second")

    assert confined(policy(rule(tree / "granted", EVERYTHING), rule(tree / "other", R)), link) in ("EXDEV", "EACCES")
    assert not (tree / "granted/second").exists()
    assert confined(policy(rule(tree / "granted", EVERYTHING), rule(tree / "other", EVERYTHING)), link) == "ok"


def test_listing_does_not_read(tree: Path):
    compiled = policy(rule(tree / "granted", LIST))
    assert confined(compiled, lambda: os.listdir(tree / "granted")) == "ok"
    assert confined(compiled, lambda: (tree / "granted/file").read_text()) == "EACCES"


@pytest.fixture
def listening():
    require("landlock_net", native.abi_version() >= 4, "TCP ports are handled from ABI 4 (Linux 6.7)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _net(action: NetAction, low: int, high: int) -> NetRule:
    return NetRule(action=action, address=bytes(4), port_low=low, port_high=high)


def test_tcp_connects_to_granted_ports_only(listening: int):
    def connect() -> None:
        with socket.socket() as client:  # not create_connection: that imports, and no file is granted
            client.connect(("127.0.0.1", listening))

    assert confined(policy(net=(_net(NetAction.CONNECT, listening, listening),)), connect) == "ok"
    assert confined(policy(net=(_net(NetAction.CONNECT, 1, 2),)), connect) == "EACCES"
    assert confined(policy(), connect) == "EACCES"


def test_tcp_binds_to_granted_ports_only(listening: int):
    def bind() -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))

    assert confined(policy(net=(_net(NetAction.BIND, 0, 0),)), bind) == "ok"
    assert confined(policy(net=(_net(NetAction.BIND, 1, 2),)), bind) == "EACCES"


def test_a_port_range_too_wide_for_landlock_is_left_to_others_and_said(listening: int):
    compiled = policy(net=(_net(NetAction.CONNECT, 0, 65535),))
    with LandlockEnforcer().prepare(compiled) as ruleset:
        assert not ruleset.handled.net & native.AccessNet.CONNECT_TCP
        assert ruleset.handled.net & native.AccessNet.BIND_TCP
        assert any("leaves TCP ports" in note for note in ruleset.notes)


def test_signals_and_abstract_sockets_stay_inside():
    require("landlock_scope", native.abi_version() >= 6, "scopes are handled from ABI 6 (Linux 6.12)")
    parent = os.getpid()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0pyisolate-test")
        server.listen()

        def abstract() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("\0pyisolate-test")

        assert confined(policy(), lambda: os.kill(parent, 0)) == "EPERM"
        assert confined(policy(), abstract) == "EPERM"
        assert in_child(lambda: [outcome(lambda: os.kill(parent, 0)), outcome(abstract)]) == ["ok", "ok"]
    assert confined(policy(), lambda: os.kill(os.getpid(), 0)) == "ok"


def test_a_denial_below_a_grant_is_reported_and_a_denial_beside_one_is_not(tree: Path):
    enforcer = LandlockEnforcer()
    below = policy(rule(tree / "granted", R), rule(tree / "granted/below", deny=R))
    assert enforcer.unenforceable(below) == [f"rule {tree}/granted/below"]
    absent = policy(rule(tree / "granted", R), rule(tree / "granted/absent", deny=R))
    assert enforcer.unenforceable(absent) == [f"rule {tree}/granted/absent"]
    for compiled in (
        policy(rule(tree / "granted", R), rule(tree / "other", deny=R)),
        policy(rule(tree / "granted", R), rule(tree / "granted/below", deny=W)),
        policy(rule(tree / "granted/below", R), rule(tree / "granted", deny=R)),
    ):
        assert enforcer.unenforceable(compiled) == []


def test_a_denial_reached_through_a_link_is_reported(tree: Path):
    (tree / "link").symlink_to("granted/below")
    compiled = policy(rule(tree / "granted", R), rule(tree / "link", deny=R))
    assert LandlockEnforcer().unenforceable(compiled) == [f"rule {tree}/link"]


def test_the_edge_of_an_implied_grant_is_carved_out(tree: Path):
    compiled = policy(rule(tree / "granted", R, origin="import"), rule(tree / "granted/below", deny=R, text=""))
    assert LandlockEnforcer().unenforceable(compiled) == []
    assert confined(compiled, lambda: (tree / "granted/file").read_text()) == "ok"
    assert confined(compiled, lambda: os.listdir(tree / "granted")) == "ok"
    assert confined(compiled, lambda: (tree / "granted/below/file").read_text()) == "EACCES"


def test_a_missing_path_is_noted_and_the_rest_holds(tree: Path):
    compiled = policy(rule(tree / "absent", R), rule(tree / "granted", R))
    with LandlockEnforcer().prepare(compiled) as ruleset:
        assert ruleset.notes == (f"rule {tree}/absent: {tree}/absent is left out (No such file or directory)",)
    assert confined(compiled, lambda: (tree / "granted/file").read_text()) == "ok"


def test_monitor_mode_lets_files_through_and_says_so(tree: Path):
    compiled = policy(mode=Mode.MONITOR)
    assert confined(compiled, lambda: (tree / "other/file").read_text()) == "ok"
    with LandlockEnforcer().prepare(compiled) as ruleset:
        assert any("monitor" in note for note in ruleset.notes)


def test_a_thread_is_confined_and_its_process_is_not(tree: Path):
    def body() -> list[str]:
        results: list[str] = []

        def guest() -> None:
            process.set_no_new_privs()
            native.restrict_self(ruleset.fd)
            results.append(outcome(lambda: (tree / "other/file").read_text()))

        thread = threading.Thread(target=guest)
        thread.start()
        thread.join()
        return [*results, outcome(lambda: (tree / "other/file").read_text())]

    with LandlockEnforcer().prepare(policy(rule(tree / "granted", R))) as ruleset:
        assert in_child(body) == ["EACCES", "ok"]


def test_the_probe_sees_a_denial_and_hides_its_child_from_the_host():
    received: list[int] = []
    old = signal.signal(signal.SIGCHLD, lambda number, frame: received.append(number))
    stop = threading.Event()
    threads = [threading.Thread(target=lambda: [bytearray(4096) for _ in iter(stop.is_set, True)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        found = LandlockEnforcer().probe()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGCHLD, old)
    assert isinstance(LandlockEnforcer(), Enforcer)
    assert found.status is Status.AVAILABLE
    assert "denied (EACCES)" in found.proof
    assert "allowed" in found.proof
    assert found.detail["abi"] == native.abi_version()
    assert received == []


def test_the_probe_believes_no_kernel_that_denies_nothing(monkeypatch: pytest.MonkeyPatch):
    unmoved = native.ProbeResult("see the other directory denied", 0, False, False)
    monkeypatch.setattr(native, "probe", lambda *arguments: unmoved)
    found = LandlockEnforcer().probe()
    assert found.status is Status.UNAVAILABLE
    assert found.reason == "see the other directory denied: it went through"


def test_without_landlock_the_probe_says_why_and_preparing_fails(monkeypatch: pytest.MonkeyPatch):
    for enforcer in (LandlockEnforcer(simulate_missing=True), LandlockEnforcer()):
        monkeypatch.setattr(module, "simulate_missing", True)
        found = enforcer.probe()
        assert found.status is Status.UNAVAILABLE
        assert "Function not implemented" in found.reason
        assert "5.13" in found.remedy
        assert enforcer.capabilities() == frozenset()
        with pytest.raises(EnforcementError, match="build the Landlock ruleset") as raised:
            enforcer.prepare(policy())
        assert raised.value.missing == "landlock"
