"""Sockets are made, connected and bound by the supervisor, by rules it judges on its own copy of the address."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Mode, Verdict
from tests.confined import confined, policy, rule
from tests.in_child import NOBODY, outcome
from tests.loopback import Server, fetch

USERS = [None, NOBODY] if os.geteuid() == 0 else [None]
MSG_FASTOPEN = 0x20000000


@pytest.fixture(params=USERS, ids=lambda uid: f"uid={uid}")
def uid(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_granted_port_is_reached_and_another_is_refused(server: Server, other: Server, uid: int | None) -> None:
    def guest() -> object:
        return fetch(server.port), outcome(lambda: fetch(other.port))

    seen = confined(guest, policy(rule("connect", f"127.0.0.1:{server.port}")), uid=uid)
    assert seen.value == ["hello", "EACCES"]
    assert (server.reached, other.reached) == (1, 0)
    assert seen.refusals == [("net.connect", f"127.0.0.1:{other.port}", "SCOPE_INSUFFICIENT")]
    record = seen.records[0]
    assert record.presented == f"connect: 127.0.0.1:{server.port}"
    assert (record.errno, record.syscall, record.hook) == (errno.EACCES, "connect", "seccomp:connect")
    assert seen.counters[Capability.NET_CONNECT, Verdict.ALLOW] == 1
    assert seen.counters[Capability.NET_CONNECT, Verdict.DENY] == 1


def test_without_a_grant_there_is_no_inet_socket(server: Server, uid: int | None) -> None:
    def guest() -> object:
        return [outcome(lambda family=family: socket.socket(family)) for family in (socket.AF_INET, socket.AF_INET6)]

    seen = confined(guest, policy(), uid=uid)
    assert seen.value == ["EACCES", "EACCES"]
    assert seen.refusals == [
        ("net.socket", "AF_INET/SOCK_STREAM", "NOT_GRANTED"),
        ("net.socket", "AF_INET6/SOCK_STREAM", "NOT_GRANTED"),
    ]


def test_the_most_specific_rule_wins_and_a_deny_wins_a_tie(server: Server, other: Server) -> None:
    rules = (
        rule("connect", "127.0.0.0/8:1-65535"),
        rule("connect", f"127.0.0.1:{other.port}", allow=False),
        rule("connect", f"127.0.0.1:{server.port}"),
    )

    def guest() -> object:
        return fetch(server.port), outcome(lambda: fetch(other.port)), outcome(lambda: fetch(other.port, "127.0.0.2"))

    seen = confined(guest, policy(*rules))
    assert seen.value == ["hello", "EACCES", "ECONNREFUSED"]
    assert seen.refusals == [("net.connect", f"127.0.0.1:{other.port}", "EXPLICIT_DENY")]
    assert seen.records[0].rule == f"deny connect: 127.0.0.1:{other.port}"
    tie = (rule("connect", f"127.0.0.1:{server.port}"), rule("connect", f"127.0.0.1:{server.port}", allow=False))
    assert confined(lambda: outcome(lambda: fetch(server.port)), policy(*tie)).value == "EACCES"


def test_other_spellings_of_an_address_meet_the_same_rules(server: Server, other: Server) -> None:
    def spell(port: int) -> list[str]:
        def mapped() -> None:
            with socket.socket(socket.AF_INET6) as sock:
                sock.connect(("::ffff:127.0.0.1", port))

        def anywhere() -> None:
            with socket.socket() as sock:
                sock.connect(("0.0.0.0", port))

        def mapped_anywhere() -> None:
            with socket.socket(socket.AF_INET6) as sock:
                sock.connect(("::ffff:0.0.0.0", port))

        return [outcome(mapped), outcome(anywhere), outcome(mapped_anywhere)]

    seen = confined(
        lambda: [spell(server.port), spell(other.port)], policy(rule("connect", f"127.0.0.1:{server.port}"))
    )
    assert seen.value == [["ok"] * 3, ["EACCES"] * 3]
    assert other.reached == 0
    assert {target for _, target, _ in seen.refusals} == {f"127.0.0.1:{other.port}"}


def test_ipv6_rules() -> None:
    server, other = Server("::1"), Server("::1")
    try:

        def guest() -> object:
            return [outcome(lambda port=port: fetch(port, "::1")) for port in (server.port, other.port)]

        seen = confined(guest, policy(rule("connect", f"[::1]:{server.port}")))
        assert seen.value == ["ok", "EACCES"]
        assert seen.refusals == [("net.connect", f"[::1]:{other.port}", "SCOPE_INSUFFICIENT")]
    finally:
        server.close()
        other.close()


def test_bind_and_listen_need_a_grant(uid: int | None) -> None:
    def serve(address: str, port: int, *, v6only: bool | None = None) -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            if v6only is not None:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            sock.bind((address, port))
            sock.listen()

    def autobound() -> None:
        with socket.socket() as sock:
            sock.listen()

    def guest() -> object:
        return [
            outcome(lambda: serve("127.0.0.1", 0)),
            outcome(lambda: serve("127.0.0.1", 40123)),
            outcome(lambda: serve("0.0.0.0", 0)),
            outcome(autobound),
        ]

    seen = confined(guest, policy(rule("bind", "127.0.0.1:0")), uid=uid)
    assert seen.value == ["ok", "EACCES", "EACCES", "EACCES"]
    assert seen.refusals == [
        ("net.bind", "127.0.0.1:40123", "SCOPE_INSUFFICIENT"),
        ("net.bind", "0.0.0.0:0", "SCOPE_INSUFFICIENT"),
        ("net.listen", "0.0.0.0:0", "SCOPE_INSUFFICIENT"),
    ]
    # [::] takes IPv4 too unless it says otherwise
    both = confined(
        lambda: [outcome(lambda only=only: serve("::", 0, v6only=only)) for only in (False, True)],
        policy(rule("bind", "[::]/0:0")),
        uid=uid,
    )
    assert both.value == ["EACCES", "ok"]
    anything = confined(autobound, policy(rule("bind", "0.0.0.0/0:0")), uid=uid)
    assert anything.refusals == []


def test_a_guest_server_is_reached_from_outside() -> None:
    ours, theirs = socket.socketpair()

    def guest() -> object:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs.send(struct.pack("i", server.getsockname()[1]))
            connection, _ = server.accept()
            return connection.recv(5).decode()

    def client() -> None:
        port = struct.unpack("i", ours.recv(4))[0]
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"howdy")

    thread = threading.Thread(target=client)
    thread.start()
    assert confined(guest, policy(rule("bind", "127.0.0.1:0"))).value == "howdy"
    thread.join(5)
    ours.close()
    theirs.close()


def _udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(2)
    return sock


def _drained(sock: socket.socket) -> list[bytes]:
    sock.setblocking(False)
    found = []
    try:
        while True:
            found.append(sock.recv(100))
    except BlockingIOError:
        return found


def test_datagrams_go_to_granted_addresses_only_however_they_are_sent(uid: int | None) -> None:
    granted, denied = _udp(), _udp()
    to, elsewhere = granted.getsockname(), denied.getsockname()
    libc = ctypes.CDLL(None, use_errno=True)

    def raw_sendto(address: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            if libc.sendto(sock.fileno(), b"unspec", 6, 0, address, len(address)) < 0:
                raise OSError(ctypes.get_errno(), "sendto")

    def address_of(family: int, port: int) -> bytes:
        return struct.pack("=HH4s8x", family, socket.htons(port), socket.inet_aton("127.0.0.1"))

    def sendmmsg(address: bytes) -> None:
        data = ctypes.create_string_buffer(b"mm")
        name = ctypes.create_string_buffer(address)
        iov = struct.pack("QQ", ctypes.addressof(data), 2)
        vector = ctypes.create_string_buffer(iov)
        header = struct.pack("QIxxxxQQQQi4xI4x", ctypes.addressof(name), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0)
        block = ctypes.create_string_buffer(header * 2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sent = libc.sendmmsg(sock.fileno(), block, 2, 0)
            if sent < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            assert sent == 1
            assert struct.unpack_from("I", block, 56) == (2,)

    def guest() -> object:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        ways = []
        for where in (to, elsewhere):
            ways.append(
                [
                    outcome(lambda where=where: sock.sendto(b"sendto", where)),
                    outcome(lambda where=where: sock.sendmsg([b"send", b"msg"], [], 0, where)),
                    outcome(lambda where=where: v6.sendto(b"v6", ("::ffff:127.0.0.1", where[1]))),
                    outcome(lambda where=where: raw_sendto(address_of(0, where[1]))),
                    outcome(lambda where=where: sendmmsg(address_of(socket.AF_INET, where[1]))),
                    outcome(lambda where=where: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(where)),
                ]
            )
        return ways

    seen = confined(guest, policy(rule("connect", f"127.0.0.1:{to[1]}")), uid=uid)
    assert seen.value == [["ok"] * 6, ["EACCES"] * 6]
    assert sorted(_drained(granted)) == [b"mm", b"sendmsg", b"sendto", b"unspec", b"v6"]
    assert _drained(denied) == []
    assert seen.refusals == [("net.send", f"127.0.0.1:{elsewhere[1]}", "SCOPE_INSUFFICIENT")] * 5 + [
        ("net.connect", f"127.0.0.1:{elsewhere[1]}", "SCOPE_INSUFFICIENT")
    ]
    granted.close()
    denied.close()


def test_tcp_fast_open_is_a_connect(server: Server, other: Server) -> None:
    def guest() -> object:
        def fast(port: int) -> str:
            with socket.socket() as sock:
                assert sock.sendto(b"x", MSG_FASTOPEN, ("127.0.0.1", port)) == 1
                return sock.recv(5).decode()

        def fast_message(port: int) -> str:
            with socket.socket() as sock:
                assert sock.sendmsg([b"x"], [], MSG_FASTOPEN, ("127.0.0.1", port)) == 1
                return sock.recv(5).decode()

        return [
            fast(server.port),
            fast_message(server.port),
            outcome(lambda: fast(other.port)),
            outcome(lambda: fast_message(other.port)),
        ]

    seen = confined(guest, policy(rule("connect", f"127.0.0.1:{server.port}")))
    assert seen.value == ["hello", "hello", "EACCES", "EACCES"]
    assert other.reached == 0
    assert [capability for capability, _, _ in seen.refusals] == ["net.connect"] * 2


def test_a_reconnect_after_dissolving_is_asked_about_again(server: Server, other: Server) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def guest() -> object:
        with socket.socket() as sock:
            sock.connect(("127.0.0.1", server.port))
            dissolved = libc.connect(sock.fileno(), struct.pack("=H14x", 0), 16)
            return dissolved, outcome(lambda: sock.connect(("127.0.0.1", other.port)))

    assert confined(guest, policy(rule("connect", f"127.0.0.1:{server.port}"))).value == [0, "EACCES"]


FOREIGN = {
    "AF_PACKET/SOCK_RAW": (17, 3, 0),
    "AF_NETLINK/SOCK_RAW": (16, 3, 0),  # the socket module's last name for AF_NETLINK
    "AF_ALG/SOCK_SEQPACKET": (38, 5, 0),
    "AF_VSOCK/SOCK_STREAM": (40, 1, 0),
    "AF_INET/SOCK_RAW": (2, 3, 1),
    "AF_INET/SOCK_DGRAM/IPPROTO_ICMP": (2, 2, 1),  # ping
    "AF_INET/SOCK_STREAM/IPPROTO_SCTP": (2, 1, 132),
}


def test_other_families_and_protocols_are_never_given(uid: int | None) -> None:
    def guest() -> object:
        made = [outcome(lambda kind=kind: socket.socket(*kind)) for kind in FOREIGN.values()]
        return [*made, outcome(lambda: socket.socket(2, 1, 262))]

    seen = confined(guest, policy(rule("connect", "0.0.0.0/0:1-65535")), uid=uid)
    assert seen.value == ["EPERM"] * len(FOREIGN) + ["ok"]  # MPTCP is served by TCP
    assert seen.refusals == [("net.socket", name, "ALWAYS_DENIED") for name in FOREIGN]


def test_socket_options_that_change_where_packets_go_are_refused(uid: int | None) -> None:
    def guest() -> object:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            route = bytes([1, 131, 7, 4, 127, 0, 0, 2])  # loose source route
            return [
                outcome(lambda: sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)),
                outcome(lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")),
            ]

    seen = confined(guest, policy(rule("connect", "127.0.0.1:9")), uid=uid)
    assert seen.value == ["EPERM", "EPERM"]
    assert [code for _, _, code in seen.refusals] == ["ALWAYS_DENIED"] * 2


def test_control_messages_that_carry_routes_are_refused() -> None:
    granted = _udp()
    to = granted.getsockname()

    def guest() -> object:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tos = (socket.IPPROTO_IP, socket.IP_TOS, struct.pack("i", 8))
        options = (socket.IPPROTO_IP, 7, bytes([1, 131, 7, 4, 127, 0, 0, 2]))  # IP_RETOPTS
        return [outcome(lambda c=c: sock.sendmsg([b"x"], [c], 0, to)) for c in (tos, options)]

    assert confined(guest, policy(rule("connect", f"127.0.0.1:{to[1]}"))).value == ["ok", "EPERM"]
    granted.close()


def test_monitor_mode_lets_through_and_records(server: Server, other: Server) -> None:
    watched = policy(rule("connect", f"127.0.0.1:{server.port}"), mode=Mode.MONITOR)
    seen = confined(lambda: [fetch(other.port), outcome(lambda: socket.socket(17, 3, 0))], watched)
    assert seen.value == ["hello", "EPERM"]
    assert [(r.verdict, r.target) for r in seen.records] == [
        (Verdict.WOULD_DENY, f"127.0.0.1:{other.port}"),
        (Verdict.DENY, "AF_PACKET/SOCK_RAW"),
    ]
    nothing = confined(lambda: fetch(server.port), policy(mode=Mode.MONITOR))
    assert [r.capability for r in nothing.records] == [Capability.NET_SOCKET, Capability.NET_CONNECT]


def test_an_address_that_changes_while_it_is_judged_reaches_nobody_else(server: Server, other: Server) -> None:
    """Two threads write the granted and the other port into one sockaddr while a third connects with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    rounds = 10_000

    def guest() -> object:
        address = ctypes.create_string_buffer(
            struct.pack("=HH4s8x", socket.AF_INET, socket.htons(server.port), socket.inet_aton("127.0.0.1")), 16
        )
        view = (ctypes.c_uint16 * 8).from_buffer(address)
        ports = socket.htons(server.port), socket.htons(other.port)
        stop = False

        def flip() -> None:
            while not stop:
                view[1] = ports[0]
                view[1] = ports[1]

        flipper = threading.Thread(target=flip)
        flipper.start()
        tally = {0: 0, errno.EACCES: 0}
        for _ in range(rounds):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            result = libc.connect(sock.fileno(), address, 16)
            reached = sock.getpeername()[1] if result == 0 else 0
            assert reached in (0, server.port), reached
            tally[0 if result == 0 else ctypes.get_errno()] += 1
            sock.close()
        stop = True
        flipper.join()
        return tally[0], tally[errno.EACCES]

    import sys

    def with_fast_switches() -> object:
        sys.setswitchinterval(1e-6)
        return guest()

    granted, refused = confined(with_fast_switches, policy(rule("connect", f"127.0.0.1:{server.port}"))).value
    assert granted + refused == rounds
    assert min(granted, refused) > 0, "the race was not run"
    assert other.reached == 0
