"""Sandboxes that use the host's network themselves: the programs of their control group decide, nothing goes round."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.native.seccomp import number_of
from pyisolate.records import Evaluation
from pyisolate.telemetry.event import DenialEvent
from tests import inside
from tests.require import require

BASE = Policy.preset("compute").with_name("native").allow_native("*")

GUEST = r'''
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)

def code(result):
    return ctypes.get_errno() if result < 0 else 0

def v4(host, port, family=socket.AF_INET):
    return struct.pack("<H", family) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)

def v6(host, port):
    return (struct.pack("<H", socket.AF_INET6) + struct.pack(">HI", port, 0)
            + socket.inet_pton(socket.AF_INET6, host) + bytes(4))

def raw_socket(family, kind, protocol=0):
    fd = libc.socket(family, kind, protocol)
    return fd if fd >= 0 else -ctypes.get_errno()

def raw_connect(family, kind, address):
    fd = raw_socket(family, kind)
    try:
        return code(libc.connect(fd, address, len(address)))
    finally:
        os.close(fd)

def connect4(host, port, kind=socket.SOCK_STREAM):
    return raw_connect(socket.AF_INET, kind, v4(host, port))

def connect6(host, port, kind=socket.SOCK_STREAM):
    return raw_connect(socket.AF_INET6, kind, v6(host, port))

def connect46(host, port, kind):
    return raw_connect(socket.AF_INET, kind, v6(host, port))

def smuggled(real, shown, port):
    """A sockaddr_in on an IPv6 datagram socket, followed by what a program would take for its IPv6 address."""
    address = struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(real)
    address += socket.inet_pton(socket.AF_INET6, shown) + bytes(4)
    return raw_connect(socket.AF_INET6, socket.SOCK_DGRAM, address)

def send(family, host, port, flags=0, kind=socket.SOCK_DGRAM):
    fd = raw_socket(family, kind)
    address = v4(host, port) if family == socket.AF_INET else v6(host, port)
    try:
        return code(libc.sendto(fd, b"x", 1, flags, address, len(address)))
    finally:
        os.close(fd)

def send_unspecified(host, port):
    fd = raw_socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = v4(host, port, socket.AF_UNSPEC)
    try:
        return code(libc.sendto(fd, b"x", 1, 0, address, len(address)))
    finally:
        os.close(fd)

def reconnect(port, other):
    """Connected where it is granted, dissolved, connected elsewhere."""
    fd = raw_socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        first = code(libc.connect(fd, v4("127.0.0.1", port), 16))
        libc.connect(fd, bytes(16), 16)
        return first, code(libc.connect(fd, v4("127.0.0.1", other), 16))
    finally:
        os.close(fd)

def makes(family, kind, protocol=0):
    fd = raw_socket(family, kind, protocol)
    if fd >= 0:
        os.close(fd)
    return min(fd, 0)

def pair(kind):
    fds = (ctypes.c_int * 2)()
    if libc.socketpair(socket.AF_UNIX, kind, 0, fds):
        return ctypes.get_errno()
    for fd in fds:
        os.close(fd)
    return 0

def pair_connects(name):
    ours, theirs = socket.socketpair()
    address = struct.pack("<H", socket.AF_UNIX) + name
    return code(libc.connect(ours.fileno(), address, len(address)))

def routed(host, port, other):
    """A datagram to a granted address that control messages route through another host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        route = bytes([131, 7, 4]) + socket.inet_aton(other) + b"\0"
        try:
            s.sendmsg([b"x"], [(socket.IPPROTO_IP, 7, route)], 0, (host, port))
        except OSError as error:
            return error.errno
        return 0

def bind4(host, port):
    fd = raw_socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        return code(libc.bind(fd, v4(host, port), 16))
    finally:
        os.close(fd)

def listen_unbound():
    fd = raw_socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        return code(libc.listen(fd, 1))
    finally:
        os.close(fd)

def in_child(port):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, bytes([connect4("127.0.0.1", port)]))
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 1)[0]

def many(port, count):
    return {connect4("127.0.0.1", port) for _ in range(count)}

def asked(port):
    with socket.create_connection(("127.0.0.1", port)):
        return True

def reaches(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (host, port))
'''
EACCES, EPERM, EAFNOSUPPORT = 13, 1, 97
BPF = number_of("bpf")
INET, INET6, STREAM, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM


class Peer:
    """A listener on every loopback address of both families, and how many connections reached it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("::", 0), family=INET6, dualstack_ipv6=True, backlog=1024)
        self.port = int(self.socket.getsockname()[1])
        self.datagrams = socket.socket(INET, DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        self.datagrams.settimeout(2)
        self.reached = 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.accept()[0].close()
                self.reached += 1

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.socket.close()
        self.datagrams.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def native() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1, network="auto") as made:
        made.spawn("first", grants(9)).close()  # for which they are loaded
        found = made.diagnostics().enforcers.get("cgroup-bpf")
        usable = inside.plan(made).bpf.network is not None
        require("cgroup-bpf", usable, found.reason if found is not None else "not tried: root with cgroup v2 only")
        yield made


def grants(port: int) -> Policy:
    return BASE.allow_connect(f"127.0.0.1:{port}").allow_connect(f"[::1]:{port}")


@pytest.fixture
def sandbox(native: pyisolate.Supervisor, peer: Peer) -> Iterator[pyisolate.Sandbox]:
    with native.spawn("native", grants(peer.port).allow_fork()) as made:
        made.exec(GUEST)
        yield made


def detach(link: int) -> None:
    """BPF_LINK_DETACH (bpf(2)), though the zygote holds the link too."""
    attributes = struct.pack("=I", link).ljust(16, b"\0")
    assert ctypes.CDLL(None, use_errno=True).syscall(BPF, 34, attributes, len(attributes)) == 0


def kernel_events(sandbox: pyisolate.Sandbox, capability: Capability) -> list[DenialEvent]:
    return [event for event in sandbox.get_denial_events() if event.capability is capability]


def test_the_report_names_the_programs(sandbox: pyisolate.Sandbox) -> None:
    lines = {line.capability: line.enforcers for line in sandbox.enforcement.capabilities}
    decided = (Capability.NET_CONNECT, Capability.NET_SEND, Capability.NET_SOCKET)
    assert all(lines[capability][0] == "cgroup-bpf" for capability in decided)
    assert "cgroup-bpf" not in lines[Capability.NET_BIND] + lines[Capability.NET_LISTEN]


@pytest.mark.parametrize(("network", "mapped"), [("connect4", False), ("connect6", False), ("connect6", True)])
def test_connect(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer, network: str, mapped: bool) -> None:
    host = "127.0.0.1" if network == "connect4" else "::ffff:127.0.0.1" if mapped else "::1"
    for kind in (STREAM, DGRAM):
        assert sandbox.call(network, host, peer.port, kind) == 0
        assert sandbox.call(network, host, other.port, kind) == EACCES
    assert other.reached == 0
    events = kernel_events(sandbox, Capability.NET_CONNECT)
    assert sum(event.count for event in events) == 2
    assert {(e.broker_decision, e.kernel_decision) for e in events} == {(Verdict.NOT_CONSULTED, Verdict.DENY)}
    assert {e.kernel_enforcer for e in events} == {"cgroup-bpf"}


@pytest.mark.parametrize("any_host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_any_means_loopback(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer, any_host: str) -> None:
    call = "connect4" if any_host == "0.0.0.0" else "connect6"
    for kind in (STREAM, DGRAM):
        assert sandbox.call(call, any_host, peer.port, kind) == 0
        assert sandbox.call(call, any_host, other.port, kind) == EACCES
    assert other.reached == 0
    event = kernel_events(sandbox, Capability.NET_CONNECT)[0]
    assert event.target == f"[::1]:{other.port}" if any_host == "::" else f"127.0.0.1:{other.port}"


def test_an_ipv4_address_on_an_ipv6_socket_cannot_hide(sandbox: pyisolate.Sandbox, peer: Peer) -> None:
    assert sandbox.call("connect6", "::ffff:127.0.0.1", peer.port, DGRAM) == 0
    assert sandbox.call("smuggled", "127.0.0.2", "::ffff:127.0.0.1", peer.port) in (EACCES, EAFNOSUPPORT)
    assert sandbox.call("smuggled", "127.0.0.2", "::1", peer.port) in (EACCES, EAFNOSUPPORT)


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_an_ipv6_address_on_an_ipv4_socket_is_refused_as_linux_does(
    sandbox: pyisolate.Sandbox, peer: Peer, other: Peer, kind: int
) -> None:
    """Its bytes were read as an IPv4 address, which the event then named."""
    exec(GUEST, plain := dict[str, Callable[..., int]]())
    assert plain["connect46"]("::1", other.port, kind) == EAFNOSUPPORT  # the control: no sandbox
    assert sandbox.call("connect46", "::1", other.port, kind) == EAFNOSUPPORT
    assert sandbox.get_denial_events() == []
    assert sandbox.call("connect4", "127.0.0.1", peer.port, kind) == 0


def test_datagrams(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer) -> None:
    assert sandbox.call("send", INET, "127.0.0.1", peer.port) == 0
    assert peer.datagrams.recv(10) == b"x"
    assert sandbox.call("send_unspecified", "127.0.0.1", peer.port) == 0
    for call, arguments in (
        ("send", (INET, "127.0.0.1", other.port)),
        ("send", (INET6, "::ffff:127.0.0.1", other.port)),
        ("send", (INET6, "::1", other.port)),
        ("send_unspecified", ("127.0.0.1", other.port)),
    ):
        assert sandbox.call(call, *arguments) == EACCES
    other.datagrams.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.datagrams.recv(10)


def test_fast_open(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer) -> None:
    fast_open = 0x20000000
    assert sandbox.call("send", INET, "127.0.0.1", other.port, fast_open, STREAM) == EACCES
    assert sandbox.call("send", INET, "127.0.0.1", peer.port, fast_open, STREAM) == 0
    assert other.reached == 0


def test_a_dissolved_connection_is_asked_about_again(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer) -> None:
    assert tuple(sandbox.call("reconnect", peer.port, other.port)) == (0, EACCES)
    assert sandbox.call("reconnect", peer.port, peer.port)[1] == 0
    assert other.reached == 0


def test_no_route_by_control_messages(sandbox: pyisolate.Sandbox, peer: Peer) -> None:
    assert sandbox.call("reaches", "127.0.0.1", peer.port) is None
    assert sandbox.call("routed", "127.0.0.1", peer.port, "127.0.0.2") == EPERM


def test_which_sockets(sandbox: pyisolate.Sandbox) -> None:
    for family in (INET, INET6):
        assert [sandbox.call("makes", family, kind) for kind in (STREAM, DGRAM)] == [0, 0]
        assert sandbox.call("makes", family, STREAM, 262) == -EPERM  # multipath TCP opens connections of its own
        assert sandbox.call("makes", family, socket.SOCK_RAW, 1) == -EPERM
        assert sandbox.call("makes", family, DGRAM, 1) == -EPERM
        assert sandbox.call("makes", family, DGRAM, 136) == -EPERM
    multipath = sandbox.get_denial_events()[0]
    assert "network='listener'" in multipath.kernel_reason
    assert multipath.target == "AF_INET/SOCK_STREAM/IPPROTO_MPTCP", "not the plain one, which is granted"
    for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
        assert sandbox.call("makes", int(family), socket.SOCK_RAW) == -EPERM


def test_unix_sockets_are_pairs(sandbox: pyisolate.Sandbox) -> None:
    name = f"\0pyisolate-test-{os.getpid()}".encode()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(name)
        listening.accept()[0].close()
        assert sandbox.call("pair", STREAM) == 0
        assert sandbox.call("pair", int(socket.SOCK_SEQPACKET)) == 0
        assert sandbox.call("pair", DGRAM) == EACCES
        assert sandbox.call("makes", socket.AF_UNIX, STREAM) == -EACCES
        assert sandbox.call("pair_connects", name) != 0
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_bind_and_listen(native: pyisolate.Supervisor, peer: Peer) -> None:
    with native.spawn("binds", grants(peer.port).allow_bind("127.0.0.1:0")) as sandbox:
        sandbox.exec(GUEST)
        assert sandbox.call("bind4", "127.0.0.1", 0) == 0
        assert sandbox.call("bind4", "127.0.0.1", 40123) == EACCES
        assert sandbox.call("bind4", "0.0.0.0", 0) == EACCES
        assert sandbox.call("listen_unbound") == EACCES


def test_a_forked_child_is_covered(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer) -> None:
    assert sandbox.call("in_child", peer.port) == 0
    assert sandbox.call("in_child", other.port) == EACCES
    assert other.reached == 0


def test_the_broker_and_the_programs_tell_of_one_refusal(sandbox: pyisolate.Sandbox, peer: Peer, other: Peer) -> None:
    assert sandbox.call("asked", peer.port)
    with pytest.raises(pyisolate.PolicyError):
        sandbox.call("asked", other.port)
    events = kernel_events(sandbox, Capability.NET_CONNECT)
    assert [(e.broker_decision, e.kernel_decision) for e in events] == [(Verdict.DENY, Verdict.DENY)]
    assert [(e.kernel_enforcer, e.kernel_evaluation) for e in events] == [("cgroup-bpf", Evaluation.PROBED)]


def test_counters_are_exact(native: pyisolate.Supervisor, sandbox: pyisolate.Sandbox, other: Peer) -> None:
    assert set(sandbox.call("many", other.port, 3000)) == {EACCES}
    shared = inside.plan(native).bpf.shared
    assert shared is not None
    found = shared.counters(sandbox.id)
    refused = sum(count for key, count in found.items()
                  if key.capability is Capability.NET_CONNECT and key.verdict is Verdict.DENY)  # fmt: skip
    assert refused == 3000
    flow = shared.flow(sandbox.id)
    assert flow.delivered + flow.suppressed + flow.lost == 3000
    assert flow.suppressed > 0  # more than 1000 a second: told as a count
    told = sandbox.get_denial_events()
    assert sum(event.count for event in told) == sandbox.stats.denials == 3000
    assert {event.kernel_evaluation for event in told} == {Evaluation.ENFORCED, Evaluation.COUNTED}
    unnamed = next(event for event in told if event.kernel_evaluation is Evaluation.COUNTED)
    assert (unnamed.kernel_enforcer, unnamed.capability, unnamed.target) == ("cgroup-bpf", "net.connect", "")
    assert "kernel_events_per_s" in unnamed.kernel_reason
    assert sum(event.count for event in sandbox.get_denial_events()) == 3000  # told once


def test_reload(native: pyisolate.Supervisor, sandbox: pyisolate.Sandbox, peer: Peer, other: Peer) -> None:
    assert sandbox.call("connect4", "127.0.0.1", peer.port) == 0
    sandbox.reload_policy(grants(other.port).allow_fork())
    assert sandbox.call("connect4", "127.0.0.1", peer.port) == EACCES
    assert sandbox.call("connect4", "127.0.0.1", other.port) == 0
    sandbox.reload_policy(BASE.allow_fork())
    assert sandbox.call("makes", INET, STREAM) == -EACCES
    sandbox.reload_policy(grants(peer.port).allow_fork())
    assert sandbox.call("connect4", "127.0.0.1", peer.port) == 0


def test_a_group_is_used_again(native: pyisolate.Supervisor, peer: Peer, other: Peer) -> None:
    for round_ in range(6):
        here, there = (peer, other) if round_ % 2 else (other, peer)
        with native.spawn("again", grants(here.port)) as sandbox:
            sandbox.exec(GUEST)
            assert sandbox.call("connect4", "127.0.0.1", here.port) == 0
            assert sandbox.call("connect4", "127.0.0.1", there.port) == EACCES
        with native.spawn("plain", BASE) as sandbox:
            sandbox.exec(GUEST)
            assert sandbox.call("makes", INET, STREAM) == -EACCES


def test_a_closed_entry_refuses_survivors(native: pyisolate.Supervisor, sandbox: pyisolate.Sandbox, peer: Peer) -> None:
    """Between the end of a sandbox and that of its processes."""
    assert sandbox.call("connect4", "127.0.0.1", peer.port) == 0
    shared = inside.plan(native).bpf.shared
    assert shared is not None
    shared.detach(sandbox.id)
    assert sandbox.call("makes", INET, STREAM) == -EACCES


def test_monitor_mode_is_the_listeners(native: pyisolate.Supervisor, peer: Peer, other: Peer) -> None:
    """In monitor mode nothing may break, unix sockets included."""
    with native.spawn("watched", grants(peer.port), mode="monitor") as sandbox:
        sandbox.exec(GUEST)
        lines = {line.capability: line.enforcers for line in sandbox.enforcement.capabilities}
        assert "cgroup-bpf" not in lines[Capability.NET_CONNECT]
        assert sandbox.call("connect4", "127.0.0.1", other.port) == 0
        assert sandbox.call("makes", socket.AF_UNIX, STREAM) == 0


def test_network_listener_leaves_it_to_the_listener(peer: Peer, other: Peer) -> None:
    with (
        pyisolate.Supervisor(pool_size=1, network="listener") as supervisor,
        supervisor.spawn("asks", grants(peer.port)) as sandbox,
    ):
        sandbox.exec(GUEST)
        lines = {line.capability: line.enforcers for line in sandbox.enforcement.capabilities}
        assert "cgroup-bpf" not in lines[Capability.NET_CONNECT]
        assert sandbox.call("connect4", "127.0.0.1", peer.port) == 0
        assert sandbox.call("connect4", "127.0.0.1", other.port) == EACCES


def test_they_are_loaded_while_what_a_sandbox_thread_wrote_keeps_the_host(peer: Peer) -> None:
    """A host's callback for a thread's output runs on the thread that works for sandbox threads, and may take long."""
    began, go_on = threading.Event(), threading.Event()

    def keep(text: str) -> None:
        began.set()
        go_on.wait()

    with (
        pyisolate.Supervisor(pool_size=0, network="auto") as supervisor,
        supervisor.spawn("thread", isolation="thread", on_stdout=keep, enforcement="best_effort") as thread,
    ):
        writing = threading.Thread(target=lambda: thread.exec("print(1, flush=True)"))
        writing.start()
        try:
            assert began.wait(20)
            with supervisor.spawn("native", grants(peer.port)) as sandbox:
                require("cgroup-bpf", inside.plan(supervisor).bpf.network is not None, "root with cgroup v2 only")
                sandbox.exec(GUEST)
                assert sandbox.call("connect4", "127.0.0.1", peer.port) == 0
        finally:
            go_on.set()
            writing.join()


def test_they_are_loaded_for_the_first_policy_that_connects(peer: Peer) -> None:
    """And what was prepared before has tables where a reload needs them."""
    before = BASE.allow_fork()
    with pyisolate.Supervisor(pool_size=0, network="auto") as supervisor:
        with supervisor.spawn("before", before) as first:
            first.exec("1")
            assert inside.plan(supervisor).bpf.network is None
        with supervisor.spawn("native", grants(peer.port).allow_fork()) as sandbox:
            require("cgroup-bpf", inside.plan(supervisor).bpf.network is not None, "root with cgroup v2 only")
            sandbox.exec(GUEST)
            assert sandbox.call("connect4", "127.0.0.1", peer.port) == 0
            sandbox.reload_policy(before)
            assert sandbox.call("makes", INET, STREAM) == -EACCES


def test_without_the_programs_nothing_is_refused(peer: Peer, other: Peer) -> None:
    """What shows that the tests above see the programs at work."""
    with (
        pyisolate.Supervisor(pool_size=0, network="auto") as supervisor,
        supervisor.spawn("detached", grants(peer.port)) as sandbox,
    ):
        require("cgroup-bpf", inside.plan(supervisor).bpf.network is not None, "root with cgroup v2 only")
        sandbox.exec(GUEST)
        assert sandbox.call("connect4", "127.0.0.1", other.port) == EACCES
        assert sandbox.call("send", INET, "127.0.0.1", other.port) == EACCES
        network = inside.plan(supervisor).bpf.network
        assert network is not None
        for link in network.link_descriptors:
            detach(link)
        assert sandbox.call("connect4", "127.0.0.1", other.port) == 0
        assert sandbox.call("send", INET, "127.0.0.1", other.port) == 0
