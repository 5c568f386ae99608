"""The bytes of the kernel's tables say what the policy says: compared with the broker on random paths and addresses."""

from __future__ import annotations

import ipaddress
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyisolate.capability import Capability
from pyisolate.decision import Mode, Verdict
from pyisolate.errors import EnforcementError
from pyisolate.kernel.bpf import tables as bpf_tables
from pyisolate.kernel.bpf.tables import Group, KernelRight, PolicyFlag
from pyisolate.policy.broker import Broker
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NamePattern, NetAction, NetRule


def policy(*fs: FsRule, net: tuple[NetRule, ...] = (), **more: object) -> CompiledPolicy:
    return CompiledPolicy(name="t", version="t", fs=tuple(sorted(fs, key=lambda rule: rule.path)), net=net, **more)


def rule(path: str, allow: int = 0, deny: int = 0) -> FsRule:
    return FsRule(path=path, allow=allow, deny=deny, text=f"fs: {path}")


def decide_path(compiled: CompiledPolicy, path: str, want: int) -> bool:
    """Look up as the kernel does: the longest key whose bits are a prefix of the path's; then the masks."""
    table = bpf_tables.compile_tables(compiled).paths
    target, length = bpf_tables.path_key(path)
    text = target[4 : 4 + int.from_bytes(target[:4], "little") // 8]
    best: tuple[int, bytes] | None = None
    for i in range(table.entries):
        key = table.keys[i * table.key_bytes : (i + 1) * table.key_bytes]
        size = int.from_bytes(key[:4], "little") // 8
        if text.startswith(key[4 : 4 + size]) and (best is None or size > best[0]):
            best = size, table.values[i * table.value_bytes : (i + 1) * table.value_bytes]
    if best is None:
        return False
    allow, _, exact, size, _ = bpf_tables._PATH_RULE.unpack(best[1])
    return not want & ~(allow | (exact if size == length else 0))


names = st.sampled_from(["a", "b", "ab", "a b", "é"])
paths = st.lists(names, max_size=4).map(lambda parts: "/" + "/".join(parts))
masks = st.integers(0, 63)
_BITS = {
    Capability.FS_READ: FsRight.READ,
    Capability.FS_WRITE: FsRight.WRITE,
    Capability.FS_CREATE: FsRight.CREATE,
    Capability.FS_DELETE: FsRight.DELETE,
    Capability.FS_METADATA: FsRight.METADATA,
    Capability.PROCESS_EXEC: FsRight.EXEC,
}


@pytest.mark.slow
@settings(max_examples=150)
@given(st.dictionaries(paths, st.tuples(masks, masks), max_size=5), paths)
def test_tables_and_broker_agree_on_paths(rules: dict[str, tuple[int, int]], path: str) -> None:
    compiled = policy(*(rule(where, allow & ~deny, deny) for where, (allow, deny) in rules.items()))
    broker = Broker(compiled)
    for capability, bit in _BITS.items():
        expected = broker.decide(capability, path).verdict is Verdict.ALLOW
        assert decide_path(compiled, path, bit) is expected, (capability, path)


def test_a_rule_ends_where_a_component_does() -> None:
    compiled = policy(rule("/srv/data", FsRight.READ))
    assert decide_path(compiled, "/srv/data", FsRight.READ)
    assert decide_path(compiled, "/srv/data/x", FsRight.READ)
    assert not decide_path(compiled, "/srv/database", FsRight.READ)


def test_any_right_shows_the_file_and_the_way_to_it() -> None:
    compiled = policy(rule("/srv/data", FsRight.DELETE))
    assert decide_path(compiled, "/srv/data/x", KernelRight.LOOK)
    assert decide_path(compiled, "/srv", KernelRight.LOOK)
    assert decide_path(compiled, "/", KernelRight.LOOK)
    assert not decide_path(compiled, "/srv/other", KernelRight.LOOK)


def test_listing_holds_at_the_path_itself() -> None:
    compiled = policy(rule("/srv", FsRight.LIST), rule("/srv/data", FsRight.READ))
    assert decide_path(compiled, "/srv", FsRight.LIST)
    assert decide_path(compiled, "/srv/data/x", FsRight.LIST)
    assert not decide_path(compiled, "/srv/other", FsRight.LIST)


def test_a_target_longer_than_a_key_is_judged_by_its_start() -> None:
    compiled = policy(rule("/srv", FsRight.READ), rule("/srv/no", 0, FsRight.READ))
    assert decide_path(compiled, "/srv/" + "x" * 400, FsRight.READ)
    assert not decide_path(compiled, "/srv/no/" + "x" * 400, FsRight.READ)


def test_a_rule_too_long_for_a_key_is_refused_by_name() -> None:
    with pytest.raises(EnforcementError, match="255 bytes") as caught:
        bpf_tables.compile_tables(policy(rule("/" + "x" * 255, FsRight.READ)))
    assert caught.value.rule == "fs: /" + "x" * 255
    bpf_tables.compile_tables(policy(rule("/" + "x" * 254, FsRight.READ)))


def test_bytes_that_are_not_text_are_kept() -> None:
    name = os.fsdecode(b"/srv/\xff")
    compiled = policy(rule(name, FsRight.READ))
    assert decide_path(compiled, name, FsRight.READ)


def decide_net(compiled: CompiledPolicy, action: NetAction, address: str, port: int) -> bool:
    table = bpf_tables.compile_tables(compiled).nets
    target = int.from_bytes(bpf_tables.net_key(ipaddress.ip_address(address).packed)[4:])
    best: tuple[int, bytes] | None = None
    for i in range(table.entries):
        key = table.keys[i * table.key_bytes : (i + 1) * table.key_bytes]
        prefix = int.from_bytes(key[:4], "little")
        if int.from_bytes(key[4:]) >> (128 - prefix) == target >> (128 - prefix) and (best is None or prefix > best[0]):
            best = prefix, table.values[i * table.value_bytes : (i + 1) * table.value_bytes]
    if best is None:
        return False
    count = int.from_bytes(best[1][:4], "little")
    for i in range(count):
        low, high, acts, allow, _ = bpf_tables._NET_RULE.unpack_from(best[1], 8 + 8 * i)
        if acts == action and low <= port <= high:
            return bool(allow)
    return False


def net(action: NetAction, network: str, low: int, high: int, allow: bool = True) -> NetRule:
    where = ipaddress.ip_network(network)
    return NetRule(
        action=action, address=where.network_address.packed, prefix=where.prefixlen, port_low=low, port_high=high,
        allow=allow, text=f"net: {network}",
    )  # fmt: skip


_networks = st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "2001:db8::/32", "2001:db8::1/128"]
)
_addresses = st.sampled_from(["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "2001:db8::1", "2001:db8::2", "::1"])
_rules = st.builds(
    lambda action, network, low, width, allow: net(action, network, low, min(low + width, 20), allow),
    st.sampled_from(NetAction), _networks, st.integers(0, 20), st.integers(0, 20), st.booleans(),
)  # fmt: skip


def _order(one: NetRule) -> tuple[object, ...]:
    return one.action, len(one.address), -one.prefix, one.port_high - one.port_low, one.allow, one.address


@settings(max_examples=200)
@given(st.lists(_rules, max_size=8), _addresses, st.integers(0, 20))
def test_tables_and_broker_agree_on_addresses(rules: list[NetRule], address: str, port: int) -> None:
    compiled = policy(net=tuple(sorted(rules, key=_order)))
    host = f"[{address}]" if ":" in address else address
    for capability, action in ((Capability.NET_CONNECT, NetAction.CONNECT), (Capability.NET_BIND, NetAction.BIND)):
        expected = Broker(compiled).decide(capability, f"{host}:{port}").verdict is Verdict.ALLOW
        assert decide_net(compiled, action, address, port) is expected


def test_an_ipv6_rule_never_reaches_mapped_addresses() -> None:
    compiled = policy(net=(net(NetAction.CONNECT, "::/0", 0, 65535),))
    assert decide_net(compiled, NetAction.CONNECT, "2001:db8::1", 443)
    assert not decide_net(compiled, NetAction.CONNECT, "::ffff:10.0.0.1", 443)


def test_too_many_ports_at_one_address_are_refused_by_name() -> None:
    rules = tuple(net(NetAction.CONNECT, "10.0.0.1/32", port, port) for port in range(33))
    with pytest.raises(EnforcementError, match="more than 32"):
        bpf_tables.compile_tables(policy(net=rules))


def test_scalars() -> None:
    compiled = policy(
        rule("/srv", FsRight.READ, FsRight.WRITE),
        net=(net(NetAction.BIND, "10.0.0.1/32", 1, 1),),
        allow_fork=True,
        generation=7,
        natives=(NamePattern(name="*"),),
        mode=Mode.MONITOR,
        group_modes={"net": Mode.ENFORCE},
    )
    flags, monitored, generation, granted, denied, _ = bpf_tables._POLICY.unpack(
        bpf_tables.compile_tables(compiled).scalars
    )
    assert PolicyFlag(flags) == PolicyFlag.READY | PolicyFlag.FORK | PolicyFlag.BIND | PolicyFlag.MEMORY
    assert Group(monitored) == Group.FS | Group.PROCESS | Group.IMPORT | Group.RANDOM
    assert generation == 7
    assert granted & FsRight.READ
    assert not granted & FsRight.WRITE
    assert denied == FsRight.WRITE
