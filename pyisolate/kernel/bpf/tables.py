"""`CompiledPolicy` -> the bytes of the kernel's tables. Pure: no kernel, no files; the layout is `bpf/pyisolate.h`.

Inheritance is settled here, so that the kernel's longest match alone decides: every entry carries all rights in force
at its path. A path key ends in "/", so that a rule ends where a component does.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import struct
from collections.abc import Iterable, Iterator

import msgspec

from ...decision import Mode
from ...errors import EnforcementError
from ...policy import workspace
from ...policy.compiled import CompiledPolicy, FsRight, FsRule, NetAction, NetRule

KEY_BYTES = 256
NET_RULES = 32

_PATH_KEY = struct.Struct(f"=I{KEY_BYTES}s")
_PATH_RULE = struct.Struct("=IIIHH")
_NET_KEY = struct.Struct("=I16s")
_NET_RULE = struct.Struct("=HHBBH")
_NET_RULES = struct.Struct("=II")
_POLICY = struct.Struct("=IIIIII")

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class KernelRight(enum.IntFlag):
    """Rights that only the kernel's tables know, above those of `FsRight` (enum pyi_right)."""

    UNIX_CONNECT = 256
    UNIX_BIND = 512
    LOOK = 1024


class Group(enum.IntFlag):
    """Rule groups as bits (enum pyi_group)."""

    FS = 1
    NET = 2
    PROCESS = 4
    IMPORT = 8
    RANDOM = 16
    FLOOR = 32


class PolicyFlag(enum.IntFlag):
    """What a policy allows as a whole (enum pyi_policy_flag)."""

    READY = 1
    FORK = 2
    CONNECT = 4
    BIND = 8
    UNIX = 16
    MEMORY = 32


class Table(msgspec.Struct, frozen=True):
    """Entries laid end to end, as `libbpf.fill` takes them."""

    key_bytes: int
    value_bytes: int
    keys: bytes
    values: bytes

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return len(self.keys) // self.key_bytes


class Node(msgspec.Struct):
    """What is in force at one path and below it; `exact` holds for the path itself only."""

    allow: int = 0
    deny: int = 0
    exact: int = 0
    below: bool = False


class PolicyTables(msgspec.Struct, frozen=True):
    """One policy as the kernel reads it."""

    paths: Table
    nets: Table
    scalars: bytes


def compile_tables(policy: CompiledPolicy) -> PolicyTables:
    """Return the policy's tables. Raises EnforcementError for a rule that the kernel's tables cannot hold."""
    nodes = path_nodes(policy)
    return PolicyTables(paths=_path_table(nodes), nets=_net_table(policy.net), scalars=_scalars(policy, nodes))


# -- paths ------------------------------------------------------------------------------------------------------------


def path_key(path: str) -> tuple[bytes, int]:
    """Return a path's key for a look-up, and its length before it was cut; both with the final slash."""
    text = os.fsencode(path)
    text = text if text.endswith(b"/") else text + b"/"
    cut = text[:KEY_BYTES]
    return _PATH_KEY.pack(8 * len(cut), cut), len(text)


def path_nodes(policy: CompiledPolicy) -> dict[str, Node]:
    """Return path -> what is in force there."""
    rules = {rule.path: rule for rule in policy.fs}
    nodes: dict[str, Node] = {}
    for path in sorted(rules, key=len):
        _check_length(rules[path])
        nodes[path] = _node(rules[path], _nearest(nodes, path))
        if path == workspace.HOME and policy.own_sockets:  # by which its own processes reach one another
            nodes[path].allow |= KernelRight.UNIX_CONNECT | KernelRight.UNIX_BIND
    for rule in policy.net:
        if rule.unix_path is not None and rule.allow:
            right = KernelRight.UNIX_CONNECT if rule.action == NetAction.CONNECT else KernelRight.UNIX_BIND
            _place(nodes, rule.unix_path).exact |= right
    for path in list(nodes):
        node = nodes[path]
        reachable = bool(node.allow | node.exact)
        for parent in _parents(path):
            above = _place(nodes, parent)
            above.below = True
            if reachable:
                above.exact |= KernelRight.LOOK
    return nodes


def _check_length(rule: FsRule) -> None:
    if len(os.fsencode(rule.path)) < KEY_BYTES:
        return
    raise EnforcementError(
        f"policy, {rule.text or rule.path}: a rule's path may have {KEY_BYTES - 1} bytes in the kernel's tables",
        rule=rule.text or rule.path,
        missing="longer keys (kernel/bpf/lpm_trie.c)",
        hint="state the rule for a directory higher up",
    )


def _node(rule: FsRule, above: Node) -> Node:
    allow = (above.allow | rule.allow) & ~rule.deny & ~FsRight.LIST
    denied = rule.deny if rule.text else 0
    exact = FsRight.LIST if rule.allow & ~rule.deny & FsRight.LIST else 0
    return Node(allow=allow, deny=(above.deny & ~rule.allow) | denied, exact=exact)


def _nearest(nodes: dict[str, Node], path: str) -> Node:
    for parent in _parents(path):
        if parent in nodes:
            return nodes[parent]
    return Node()


def _place(nodes: dict[str, Node], path: str) -> Node:
    """Return the node at `path`, making one that only inherits."""
    node = nodes.get(path)
    if node is None:
        above = _nearest(nodes, path)
        node = nodes[path] = Node(allow=above.allow, deny=above.deny)
    return node


def _parents(path: str) -> Iterator[str]:
    while path != "/":
        path = path[: path.rfind("/")] or "/"
        yield path


def _implied(allow: int) -> int:
    """Add what a right brings with it: reading a directory lists it, a program is mapped, any right shows the file."""
    if allow & FsRight.READ:
        allow |= FsRight.LIST
    if allow & FsRight.EXEC:
        allow |= FsRight.MAP_EXEC
    return allow | KernelRight.LOOK if allow else 0


def _path_table(nodes: dict[str, Node]) -> Table:
    keys, values = bytearray(), bytearray()
    for path, node in nodes.items():
        key, length = path_key(path)
        keys += key
        values += _PATH_RULE.pack(_implied(node.allow), node.deny, node.exact, length, node.below)
    return Table(_PATH_KEY.size, _PATH_RULE.size, bytes(keys), bytes(values))


# -- network ----------------------------------------------------------------------------------------------------------


def net_key(address: bytes, prefix: int | None = None) -> bytes:
    """Return the key of an address (4 or 16 bytes), IPv4 in its mapped form."""
    if len(address) == 4:
        address, prefix = b"\0" * 10 + b"\xff\xff" + address, 32 if prefix is None else prefix
        prefix += 96
    return _NET_KEY.pack(128 if prefix is None else prefix, address)


def _net_table(rules: Iterable[NetRule]) -> Table:
    addressed = [rule for rule in rules if rule.address]
    keys, values = bytearray(), bytearray()
    for network in _networks(addressed):
        matching = [rule for rule in addressed if _covers(rule, network)]
        if len(matching) > NET_RULES:
            raise EnforcementError(
                f"policy, net rules for {network}: more than {NET_RULES} rules meet at one address range",
                rule=matching[-1].text,
                missing="room for more port ranges",
                hint="join neighbouring ports into ranges",
            )
        keys += net_key(network.network_address.packed, network.prefixlen)
        values += _NET_RULES.pack(len(matching), 0)
        for rule in matching:
            values += _NET_RULE.pack(rule.port_low, rule.port_high, rule.action, rule.allow, 0)
        values += bytes(_NET_RULE.size * (NET_RULES - len(matching)))
    return Table(_NET_KEY.size, _NET_RULES.size + NET_RULES * _NET_RULE.size, bytes(keys), bytes(values))


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(rule: NetRule) -> _Network:
    return ipaddress.ip_network((rule.address, rule.prefix), strict=False)


def _networks(rules: list[NetRule]) -> list[_Network]:
    found: dict[_Network, None] = {}
    for rule in rules:
        network = _network(rule)
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            continue  # an address in that form is judged as the IPv4 address it is
        found[network] = None
    if found:  # IPv6 rules must not reach mapped addresses: an entry of its own, with the IPv4 rules that there are
        found[ipaddress.ip_network("0.0.0.0/0")] = None
    return list(found)


def _covers(rule: NetRule, network: _Network) -> bool:
    own = _network(rule)
    return own.version == network.version and network.subnet_of(own)  # type: ignore[arg-type]


# -- the rest ---------------------------------------------------------------------------------------------------------


def _scalars(policy: CompiledPolicy, nodes: dict[str, Node]) -> bytes:
    flags = PolicyFlag.READY
    if policy.allow_fork:
        flags |= PolicyFlag.FORK
    for rule in policy.net:
        if not rule.allow:
            continue
        if rule.unix_path is not None:
            flags |= PolicyFlag.UNIX
        else:
            flags |= PolicyFlag.CONNECT if rule.action == NetAction.CONNECT else PolicyFlag.BIND
    if policy.any_code:
        flags |= PolicyFlag.MEMORY
    granted = denied = 0
    for node in nodes.values():
        granted |= _implied(node.allow) | node.exact
        denied |= node.deny
    return _POLICY.pack(flags, monitored(policy), policy.generation, granted, denied, 0)


def monitored(policy: CompiledPolicy) -> int:
    """Return the rule groups that only watch, as `Group` bits."""
    bits = 0
    for group in (Group.FS, Group.NET, Group.PROCESS, Group.IMPORT, Group.RANDOM):
        if policy.mode_of((group.name or "").lower()) is Mode.MONITOR:
            bits |= group
    return bits
