"""Sockets: addresses, ports, both spellings of IPv4, every way to name a receiver."""

from __future__ import annotations

import errno
import ipaddress
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyisolate.capability import Capability
from pyisolate.policy.compiled import NetAction, NetRule
from tests.vm.inside.guests import Guest, policy

Make = Callable[..., Guest]


def rule(action: NetAction, network: str, low: int, high: int | None = None, allow: bool = True) -> NetRule:
    net = ipaddress.ip_network(network)
    return NetRule(
        action=action,
        address=net.network_address.packed,
        prefix=net.prefixlen,
        port_low=low,
        port_high=low if high is None else high,
        allow=allow,
        text=f"net: {network}:{low}",
    )


C, B = NetAction.CONNECT, NetAction.BIND


@pytest.fixture(scope="module", autouse=True)
def loopback() -> None:
    subprocess.run("ip link set lo up || ifconfig lo up", shell=True, check=True)


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Two listening TCP ports on both loopbacks."""
    listeners = []
    for _ in range(2):
        one = socket.socket(socket.AF_INET6)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind(("::", 0))
        one.listen(64)
        listeners.append(one)
    yield [one.getsockname()[1] for one in listeners]
    for one in listeners:
        one.close()


_CONNECT = "socket.socket({family}).connect(('{host}', {port}))"


def test_connect_by_address_and_port(guest: Make, ports: list[int]) -> None:
    one = guest(policy({}, None, rule(C, "127.0.0.1/32", ports[0])))
    one.allowed(_CONNECT.format(family=2, host="127.0.0.1", port=ports[0]))
    record = one.refused(_CONNECT.format(family=2, host="127.0.0.1", port=ports[1]))
    assert record.capability is Capability.NET_CONNECT
    assert record.target == f"127.0.0.1:{ports[1]}"
    assert record.hook == "socket_connect"
    one.refused(_CONNECT.format(family=2, host="127.0.0.2", port=ports[0]))
    one.refused(_CONNECT.format(family=10, host="::1", port=ports[0]))
    one.lsm.detach(one.sandbox_id)
    assert one.does(_CONNECT.format(family=2, host="127.0.0.1", port=ports[0])) in (errno.EPERM, errno.EACCES)


def test_a_mapped_address_is_the_ipv4_address(guest: Make, ports: list[int]) -> None:
    one = guest(policy({}, None, rule(C, "127.0.0.1/32", ports[0]), rule(C, "::/0", 1, 65535)))
    one.allowed(_CONNECT.format(family=10, host="::ffff:127.0.0.1", port=ports[0]))
    one.refused(_CONNECT.format(family=10, host="::ffff:127.0.0.1", port=ports[1]))
    one.allowed(_CONNECT.format(family=10, host="::1", port=ports[1]))


def test_any_address_is_judged_by_where_it_leads(guest: Make, ports: list[int]) -> None:
    refused = ("127.0.0.1/32", "127.0.0.2/32", "::1/128")
    rules = [rule(C, place, ports[1], allow=False) for place in refused]
    open_ones = [rule(C, "0.0.0.0/0", 1, 65535), rule(C, "::/0", 1, 65535), rule(B, "127.0.0.0/8", 0)]
    one = guest(policy({}, None, *rules, *open_ones))
    for family, host, leads in ((2, "0.0.0.0", "127.0.0.1"), (10, "::ffff:0.0.0.0", "127.0.0.1"), (10, "::", "[::1]")):
        one.allowed(_CONNECT.format(family=family, host=host, port=ports[0]))
        record = one.refused(_CONNECT.format(family=family, host=host, port=ports[1]))
        assert record.target == f"{leads}:{ports[1]}"
    bound = "kept.update(s=socket.socket()) or kept['s'].bind(('127.0.0.2', 0)) or kept['s'].connect(('0.0.0.0', {}))"
    assert one.refused(bound.format(ports[1])).target == f"127.0.0.2:{ports[1]}"


def test_most_specific_first(guest: Make, ports: list[int]) -> None:
    rules = (
        rule(C, "127.0.0.1/32", ports[1], allow=False),
        rule(C, "127.0.0.0/8", 1, 65535),
    )
    one = guest(policy({}, None, *rules))
    one.allowed(_CONNECT.format(family=2, host="127.0.0.1", port=ports[0]))
    one.refused(_CONNECT.format(family=2, host="127.0.0.1", port=ports[1]))
    one.allowed(_CONNECT.format(family=2, host="127.0.0.2", port=ports[1]))


def test_fast_open_and_mptcp_are_connects(guest: Make, ports: list[int]) -> None:
    one = guest(policy({}, None, rule(C, "127.0.0.1/32", ports[0])))
    fast = "socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', {port}))"
    assert one.refused(fast.format(port=ports[1])).hook == "socket_sendmsg"
    assert not isinstance(one.does(fast.format(port=ports[0])), str) or True
    one.refused(f"socket.socket(2, 1, 262).connect(('127.0.0.1', {ports[1]}))")


def test_datagrams_name_their_receiver(guest: Make) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        one = guest(policy({}, None, rule(C, "127.0.0.1/32", port)))
        one.allowed(f"socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))")
        record = one.refused(f"socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port ^ 1}))")
        assert record.capability is Capability.NET_SEND
        one.refused(f"socket.socket(2, 2).sendmsg([b'x'], [], 0, ('127.0.0.1', {port ^ 1}))")


def test_bind_and_listen(guest: Make) -> None:
    one = guest(policy({}, None, rule(B, "127.0.0.1/32", 0), rule(B, "127.0.0.1/32", 4000, 4010)))
    one.allowed("kept.update(s=socket.socket()) or kept['s'].bind(('127.0.0.1', 4005)) or kept['s'].listen()")
    one.allowed("kept.update(t=socket.socket()) or kept['t'].bind(('127.0.0.1', 0)) or kept['t'].listen()")
    assert one.refused("socket.socket().bind(('127.0.0.1', 4011))").capability is Capability.NET_BIND
    one.refused("socket.socket().bind(('0.0.0.0', 4005))")
    assert one.refused("socket.socket().listen()").capability is Capability.NET_LISTEN
    with socket.create_connection(("127.0.0.1", 4005)):
        one.allowed("kept['s'].accept()[0].close()")


def test_a_policy_without_net_has_no_sockets_but_pairs(guest: Make) -> None:
    one = guest(policy({}))
    assert one.refused("socket.socket()").capability is Capability.NET_SOCKET
    one.allowed("[s.close() for s in socket.socketpair()]")
    one.allowed("kept.update(p=socket.socketpair(type=socket.SOCK_DGRAM)) or kept['p'][0].send(b'x')")


def test_unix_sockets_by_path(guest: Make, files: Path) -> None:
    servers = []
    for name in ("granted", "secret"):
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(files / name / "s"))
        server.listen()
        servers.append(server)
    granted = NetRule(action=C, unix_path=f"{files}/granted/s", text="net: unix")
    one = guest(policy({}, None, granted))
    one.allowed(f"socket.socket(1).connect('{files}/granted/s')")
    record = one.refused(f"socket.socket(1).connect('{files}/secret/s')")
    assert record.capability is Capability.NET_CONNECT
    assert record.target == f"unix:{files}/secret/s"
    for server in servers:
        server.close()


def test_abstract_and_datagram_unix_sockets(guest: Make, files: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract, socket.socket(socket.AF_UNIX) as stream:
        abstract.bind("\0pyisolate-test")
        stream.bind("\0pyisolate-stream")
        stream.listen()
        one = guest(policy({"/": "rwcdm"}))
        sent = one.refused("socket.socket(1, 2).sendto(b'x', '\\0pyisolate-test')")
        led = one.refused("socket.socket(1, 2).connect('\\0pyisolate-test')")
        connected = one.refused("socket.socket(1).connect('\\0pyisolate-stream')")
        assert [record.target for record in (sent, led, connected)] == ["unix:@"] * 3
        assert sent.capability is Capability.NET_SEND
        assert led.capability is connected.capability is Capability.NET_CONNECT


def test_a_sandbox_talks_to_itself(guest: Make) -> None:
    one, two = guest(policy({})), guest(policy({}))
    name = f"\\0own-{one.pid}"
    one.allowed(f"kept.update(s=socket.socket(1)) or kept['s'].bind('{name}') or kept['s'].listen()")
    one.allowed(f"kept.update(c=socket.socket(1)) or kept['c'].connect('{name}')")
    two.refused(f"socket.socket(1).connect('{name}')")
