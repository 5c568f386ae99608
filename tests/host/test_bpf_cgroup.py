"""cgroup-BPF on this kernel: addresses and ports per sandbox, exact counters, records, reload, what it leaves alone."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.errors import EnforcementError
from pyisolate.kernel.bpf import cgroup as bpf_cgroup
from pyisolate.kernel.bpf.cgroup import CgroupBpfEnforcer, _remove_stale_probes, unified
from pyisolate.kernel.bpf.maps import Count, PolicySlots
from pyisolate.native import bpf_maps, libbpf
from pyisolate.policy.compiled import CompiledPolicy, NetAction, NetRule
from pyisolate.records import KernelRecord
from tests.require import require

pytestmark = pytest.mark.alone  # counts what the kernel holds

C, B = NetAction.CONNECT, NetAction.BIND
FLOOD = int(os.environ.get("PYISOLATE_FLOOD", "1000000"))


def rule(action: NetAction, network: str, low: int, high: int | None = None, allow: bool = True) -> NetRule:
    where = ipaddress.ip_network(network)
    return NetRule(
        action=action, address=where.network_address.packed, prefix=where.prefixlen, port_low=low,
        port_high=low if high is None else high, allow=allow, text=f"net: {network}:{low}",
    )  # fmt: skip


def policy(*rules: NetRule, **more: object) -> CompiledPolicy:
    return CompiledPolicy(name="t", version="t", net=rules, **more)


class Box:
    """One cgroup with a policy; `run` forks a child into it and returns the errno of an action (0: it worked)."""

    def __init__(self, enforcer: CgroupBpfEnforcer, name: str, compiled: CompiledPolicy, shadow: CompiledPolicy | None):
        self.enforcer, self.name = enforcer, name
        self.path = enforcer.domain / name
        self.path.mkdir()
        prepared = enforcer.prepare(compiled)
        other = enforcer.prepare(shadow) if shadow is not None else None
        enforcer.attach_cgroup(self.path, name, prepared, other)
        prepared.close()
        if other is not None:
            other.close()

    def run(self, action: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            status = 255
            try:
                (self.path / "cgroup.procs").write_text("0")
                action()
                status = 0
            except OSError as error:
                status = error.errno or 254
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def records() -> list[KernelRecord]:
    return []


@pytest.fixture
def domain() -> Iterator[Path]:
    mount = bpf_cgroup.unified()
    require("cgroup_bpf", mount is not None and os.geteuid() == 0, "needs root and cgroup v2")
    assert mount is not None
    folder = mount / f"pyisolate-bpf-test.{os.getpid()}.{time.monotonic_ns()}"
    folder.mkdir()
    yield folder
    for below in folder.iterdir():
        if below.is_dir():
            below.rmdir()
    folder.rmdir()


@pytest.fixture
def enforcer(domain: Path, records: list[KernelRecord]) -> Iterator[CgroupBpfEnforcer]:
    made = CgroupBpfEnforcer(domain)
    made.start(records.append)
    yield made
    made.close()


@pytest.fixture
def box(enforcer: CgroupBpfEnforcer) -> Callable[..., Box]:
    made: list[Box] = []

    def make(*rules: NetRule, shadow: CompiledPolicy | None = None, **more: object) -> Box:
        made.append(Box(enforcer, f"box{len(made)}", policy(*rules, **more), shadow))
        return made[-1]

    return make


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def connect(host: str, port: int, family: int = socket.AF_INET) -> Callable[[], object]:
    def action() -> None:
        with socket.socket(family) as one:
            one.connect((host, port))

    return action


def test_probe_sees_a_denial() -> None:
    found = CgroupBpfEnforcer("/").probe()
    require("cgroup_bpf", found.usable, found.reason)
    assert "refused" in found.proof


def test_connect_by_address_and_port(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], records: list[KernelRecord], port: int
) -> None:
    one = box(rule(C, "127.0.0.1/32", port))
    assert one.run(connect("127.0.0.1", port)) == 0
    assert not records
    assert one.run(connect("127.0.0.1", port ^ 1)) == errno.EACCES
    assert one.run(connect("127.0.0.2", port)) == errno.EACCES
    assert one.run(connect("::1", port, socket.AF_INET6)) == errno.EACCES
    enforcer.shared.records.drain()
    assert [record.target for record in records] == [f"127.0.0.1:{port ^ 1}", f"127.0.0.2:{port}", f"[::1]:{port}"]
    first = records[0]
    assert first.capability is Capability.NET_CONNECT
    assert first.enforcer == "cgroup-bpf"
    assert first.hook == "cgroup/connect4"
    assert first.verdict is Verdict.DENY
    assert first.code is DenialCode.SCOPE_INSUFFICIENT
    assert first.errno == errno.EACCES
    connect("127.0.0.1", port)()  # the host itself is not in the cgroup


def test_a_drain_ends_though_records_come_faster(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], records: list[KernelRecord], port: int
) -> None:
    one = box(rule(C, "127.0.0.1/32", port))

    def refused_fifty_times() -> None:
        for _ in range(50):
            with contextlib.suppress(PermissionError):
                connect("127.0.0.2", port)()

    with enforcer.shared.records._lock:  # no other thread drains
        already = len(records)
        assert one.run(refused_fifty_times) == 0
        assert enforcer.shared.records._ring.consume(10) == 10
        assert len(records) == already + 10
    enforcer.shared.records.drain()  # the control: the rest is there, and no record was lost between
    assert [record.target for record in records] == [f"127.0.0.2:{port}"] * 50


def test_mapped_addresses_meet_the_ipv4_rules(box: Callable[..., Box], port: int) -> None:
    one = box(rule(C, "127.0.0.1/32", port), rule(C, "::/0", 0, 65535))
    assert one.run(connect("::ffff:127.0.0.1", port, socket.AF_INET6)) == 0
    assert one.run(connect("::ffff:127.0.0.2", port, socket.AF_INET6)) == errno.EACCES


def test_fast_open_mptcp_and_datagrams(box: Callable[..., Box], records: list[KernelRecord], port: int) -> None:
    def fast(to: int) -> Callable[[], object]:
        return lambda: socket.socket().sendto(b"x", 0x20000000, ("127.0.0.1", to))

    def multipath(to: int) -> Callable[[], object]:
        return lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).connect(("127.0.0.1", to))

    def datagram(to: int) -> Callable[[], object]:
        return lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", to))

    one = box(rule(C, "127.0.0.1/32", port))
    for action in (fast, datagram):
        assert one.run(action(port)) == 0, action
        assert one.run(action(port ^ 1)) == errno.EACCES, action
    if os.path.exists("/proc/sys/net/mptcp/enabled"):
        assert one.run(multipath(port)) == 0
        assert one.run(multipath(port ^ 1)) == errno.EACCES


def test_bind_and_socket_creation(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], records: list[KernelRecord]
) -> None:
    one = box(rule(B, "127.0.0.1/32", 0))
    assert one.run(lambda: socket.socket().bind(("127.0.0.1", 0))) == 0
    assert one.run(lambda: socket.socket().bind(("127.0.0.1", 18765))) == errno.EACCES
    assert one.run(lambda: socket.socket(socket.AF_INET6).bind(("::1", 0))) == errno.EACCES
    none = box()
    assert none.run(lambda: socket.socket()) == errno.EACCES
    assert none.run(lambda: socket.socketpair()) == 0
    assert one.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)) == errno.EACCES
    enforcer.shared.records.drain()
    assert records[-1].code is DenialCode.ALWAYS_DENIED
    assert records[-1].target == "AF_INET/SOCK_RAW"


def test_monitor_and_shadow_let_through_and_record(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], records: list[KernelRecord], port: int
) -> None:
    watched = box(rule(C, "127.0.0.1/32", 1), mode=Mode.MONITOR)
    assert watched.run(connect("127.0.0.1", port)) == 0
    shadowed = box(rule(C, "127.0.0.1/32", port), shadow=policy(rule(C, "127.0.0.1/32", 1)))
    assert shadowed.run(connect("127.0.0.1", port)) == 0
    enforcer.shared.records.drain()
    assert [record.verdict for record in records] == [Verdict.WOULD_DENY] * 2
    assert [record.shadow for record in records] == [False, True]
    assert [count.shadow for count in enforcer.shared.counters("box1")] == [True]


def test_counters_are_summed_over_the_policies_of_a_sandbox_and_removed_with_it(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], port: int
) -> None:
    one, other = box(rule(C, "127.0.0.1/32", port ^ 1)), box(rule(C, "127.0.0.1/32", port ^ 1))
    assert [sandbox.run(connect("127.0.0.1", port)) for sandbox in (one, other)] == [errno.EACCES] * 2
    with contextlib.closing(enforcer.prepare(policy(rule(C, "127.0.0.1/32", port ^ 2)))) as second:
        enforcer.update("box0", second)
    assert one.run(connect("127.0.0.1", port)) == errno.EACCES
    counted = Count(Capability.NET_CONNECT, DenialCode.SCOPE_INSUFFICIENT, Verdict.DENY)
    assert enforcer.shared.counters("box0") == {counted: 2}
    fd, entry = enforcer.loader.map_fd("counters"), enforcer.shared.entries.get("box0")
    assert entry is not None
    place = (entry.index, entry.epoch, entry.judged_by, [bpf_maps.CounterPart(7, 1, 2, 0)])
    assert list(bpf_maps.read_counters(fd, *place).values()) == [2]
    enforcer.detach("box0")
    assert bpf_maps.read_counters(fd, *place) == {}
    assert enforcer.shared.counters("box1") == {counted: 1}


def test_a_map_that_cannot_be_read_is_an_error_and_a_missing_entry_is_none(enforcer: CgroupBpfEnforcer) -> None:
    part = [bpf_maps.CounterPart(7, 1, 2, 0)]
    assert bpf_maps.read_counters(enforcer.loader.map_fd("counters"), 1, 99, [1], part) == {}
    assert libbpf.delete(enforcer.loader.map_fd("cgroups"), bytes(8)) is False
    with open("/dev/null") as no_map:
        for attempt in (
            lambda: bpf_maps.read_counters(libbpf.MapFd(no_map.fileno()), 1, 1, [1], part),
            lambda: libbpf.delete(libbpf.MapFd(no_map.fileno()), bytes(8)),
        ):
            with pytest.raises(libbpf.BpfCallError):
                attempt()


def test_a_reload_holds_for_the_next_call(enforcer: CgroupBpfEnforcer, box: Callable[..., Box], port: int) -> None:
    one = box(rule(C, "127.0.0.1/32", port ^ 1))
    assert one.run(connect("127.0.0.1", port)) == errno.EACCES
    prepared = enforcer.prepare(policy(rule(C, "127.0.0.1/32", port), generation=2))
    enforcer.update("box0", prepared)
    prepared.close()
    assert one.run(connect("127.0.0.1", port)) == 0


def test_after_the_end_everything_is_refused(enforcer: CgroupBpfEnforcer, box: Callable[..., Box], port: int) -> None:
    one = box(rule(C, "127.0.0.1/32", port))
    assert one.run(connect("127.0.0.1", port)) == 0
    enforcer.detach("box0")
    assert one.run(connect("127.0.0.1", port)) == errno.EACCES


def test_a_cgroup_that_no_sandbox_owns_is_refused(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], port: int
) -> None:
    one = box(rule(C, "127.0.0.1/32", port))
    stray = enforcer.domain / "stray"
    stray.mkdir()
    one.path = stray
    assert one.run(connect("127.0.0.1", port)) == errno.EACCES


def test_enforcement_ends_with_the_enforcer(domain: Path, port: int) -> None:
    """The control of all refusals above: without the programs the same child connects."""
    made = CgroupBpfEnforcer(domain)
    made.start(lambda record: None)
    one = Box(made, "box", policy(), None)
    assert one.run(connect("127.0.0.1", port)) == errno.EACCES
    made.close()
    assert one.run(connect("127.0.0.1", port)) == 0


def test_a_cgroup_elsewhere_is_no_silent_gap(enforcer: CgroupBpfEnforcer) -> None:
    prepared = enforcer.prepare(policy())
    with pytest.raises(EnforcementError, match="not below"):
        enforcer.attach_cgroup(enforcer.domain.parent, "elsewhere", prepared)
    prepared.close()


_FLOOD = """
import ctypes, os, socket, struct, sys
open(sys.argv[1], "w").write("0")
libc = ctypes.CDLL(None)
fd = socket.socket().detach()
address = struct.pack("=HH4s8x", 2, 0x0100, bytes((127, 0, 0, 1)))
connect, refused = libc.connect, 0
for _ in range(int(sys.argv[2])):
    if connect(fd, address, 16) == -1: refused += 1
print(refused)
"""


@pytest.mark.timeout(240)
def test_a_million_denials_are_counted_exactly(
    enforcer: CgroupBpfEnforcer, box: Callable[..., Box], records: list[KernelRecord]
) -> None:
    one, other = box(rule(C, "10.0.0.1/32", 1)), box(rule(C, "10.0.0.1/32", 1))
    before = _resident_bytes()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _FLOOD, str(one.path / "cgroup.procs"), str(FLOOD)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == FLOOD
    assert other.run(connect("127.0.0.1", 9)) == errno.EACCES
    enforcer.shared.records.drain()
    counts, flow = enforcer.shared.counters("box0"), enforcer.shared.flow("box0")
    assert counts == {Count(Capability.NET_CONNECT, DenialCode.SCOPE_INSUFFICIENT, Verdict.DENY): FLOOD}
    assert flow.delivered + flow.suppressed + flow.lost == FLOOD
    delivered = [record for record in records if record.sandbox_id == "box0"]
    assert len(delivered) == flow.delivered
    assert flow.suppressed > 0
    assert [record.sandbox_id for record in records].count("box1") == 1  # another's events are not lost in the flood
    assert enforcer.shared.entries.uncounted == 0
    assert _resident_bytes() - before < 64 << 20
    final, final_flow = enforcer.detach("box0")
    assert (final, final_flow) == (counts, flow)
    assert enforcer.shared.counters("box0") == {}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_thousand_sandboxes_are_reloaded_at_once(enforcer: CgroupBpfEnforcer) -> None:
    prepared = enforcer.prepare(policy(rule(C, "127.0.0.1/32", 1)))
    for number in range(1000):
        enforcer.shared.entry(f"s{number}", prepared)
    began = time.monotonic()
    fresh = enforcer.prepare(policy(rule(C, "127.0.0.1/32", 2), generation=2))
    for number in range(1000):
        enforcer.update(f"s{number}", fresh)
    taken = time.monotonic() - began
    print(f"reload of 1,000 sandboxes: {taken * 1000:.1f} ms")
    assert taken < 1.0  # the budget is 100 ms; a loaded machine is no defect
    for number in range(1000):
        enforcer.detach(f"s{number}")
    prepared.close()
    fresh.close()


def test_indices_are_reused_after_a_grace_period(enforcer: CgroupBpfEnforcer) -> None:
    slots = PolicySlots(enforcer.loader, capacity=8)
    for number in range(30):  # more than there are indices
        slots.prepare(policy(generation=number)).close()
    held = [slots.prepare(policy()) for _ in range(7)]
    with pytest.raises(EnforcementError, match="in use"):
        slots.prepare(policy())
    held[0].close()
    assert slots.prepare(policy()).index == held[0].index


def test_ask(enforcer: CgroupBpfEnforcer, box: Callable[..., Box]) -> None:
    box(rule(C, "10.0.0.0/8", 443))
    ask = enforcer.shared.ask
    assert ask("box0", Capability.NET_CONNECT, "10.1.2.3:443") is Verdict.ALLOW
    assert ask("box0", Capability.NET_CONNECT, "10.1.2.3:80") is Verdict.DENY
    assert ask("box0", Capability.NET_CONNECT, "[2001:db8::1]:443") is Verdict.DENY
    assert ask("box0", Capability.PROCESS_FORK, "fork") is Verdict.DENY
    assert ask("box0", Capability.IMPORT_MODULE, "json") is Verdict.UNAVAILABLE
    assert ask("nobody", Capability.NET_CONNECT, "10.1.2.3:443") is Verdict.UNAVAILABLE


def test_nothing_is_left_in_the_kernel(domain: Path) -> None:
    require("bpf", shutil.which("bpftool") is not None, "bpftool")

    def ours() -> int:
        listing = subprocess.run(["bpftool", "prog", "list"], capture_output=True, text=True, check=True).stdout
        return listing.count("name cgroup_")

    before = ours()
    made = CgroupBpfEnforcer(domain)
    made.start(lambda record: None)
    assert ours() == before + 7
    made.close()
    deadline = time.monotonic() + 10
    with contextlib.suppress(AssertionError):
        while ours() > before and time.monotonic() < deadline:
            time.sleep(0.1)
    assert ours() <= before


def test_the_probe_removes_what_a_killed_host_left() -> None:
    require("cgroup_bpf", os.geteuid() == 0 and (mount := unified()) is not None, "needs root and cgroup v2")
    assert mount is not None
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    stale, fresh = (mount / f"pyisolate-probe.{gone.pid}.{word}" for word in ("stale", "fresh"))
    for folder in (stale, fresh):
        folder.mkdir()
    try:
        os.utime(stale, (0, 0))
        _remove_stale_probes(mount)
        assert not stale.exists()
        assert fresh.exists(), "its maker may be in another pid namespace, and at work"
    finally:
        for folder in (stale, fresh):
            if folder.exists():
                folder.rmdir()
