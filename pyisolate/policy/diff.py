"""What changes from one policy to another: every right that is gained or lost, not every line that differs.

Rules are piecewise: between the paths, names, ranges and ports that either policy mentions nothing can change. So
comparing both at all of those points is exact, and no look at this machine is needed: hosts, variables and modules
are compared by name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from ..decision import Mode
from . import units
from .compile import RIGHT_BITS, RUN, stated_bits
from .model import PolicyModel
from .rules import EXEC, FILE_RIGHTS, FORK, MODE_GROUPS, NetworkRule, name_table
from .sections import SECTIONS
from .standard_library import NO_FFI, STDLIB, VARIABLES, variables_of

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `effect` is widened (the guest may do more) or narrowed; `what` a capability, limit, mode, ...

    It holds for `target` and all below it that no narrower rule decides.
    """

    effect: str
    what: str
    target: str

    def __str__(self) -> str:
        return f"{self.effect}: {self.what} {self.target}".rstrip()


def diff(old: PolicyModel, new: PolicyModel) -> list[Change]:
    """Return what `new` allows that `old` does not (widened) and the reverse (narrowed). Empty: the same meaning."""
    changes: list[Change] = []
    for part in (_modes, _files, _network, _web, _processes, _imports, _sections):
        changes += part(old, new)
    return changes


def _change(widened: bool, what: str, target: str) -> Change:
    return Change(effect="widened" if widened else "narrowed", what=what, target=target)


def _modes(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    for group in MODE_GROUPS:
        before, after = (dict(policy.modes).get(group, policy.mode) for policy in (old, new))
        if before is not after:
            yield _change(after is Mode.MONITOR, f"mode of {group}", f"{before} -> {after}")


# -- files and programs -----------------------------------------------------------------------------------------------


def right_tables(policy: PolicyModel) -> dict[str, dict[str, bool]]:
    """Return right -> path -> allowed, as stated. Programs are the right `exec`."""
    bits: dict[str, tuple[int, int]] = {rule.path: stated_bits(rule) for rule in policy.files}
    for program in policy.processes:
        if program.operation == EXEC:
            allow, deny = bits.get(program.path, (0, 0))
            bits[program.path] = (allow | RUN, deny) if program.allow else (allow, deny | RIGHT_BITS["exec"])
    return {
        right: {path: not deny & bit for path, (allow, deny) in bits.items() if (allow | deny) & bit}
        for right, bit in RIGHT_BITS.items()
    }


def at_and_above(path: str) -> Iterator[str]:
    """Yield `path` and everything above it; a variable stands for itself."""
    yield path
    while path not in ("/", "") and not path.startswith("@"):
        path = path[: path.rfind("/")] or "/"
        yield path


def _files(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    before, after = right_tables(old), right_tables(new)
    for right in FILE_RIGHTS:
        places = sorted(before[right].keys() | after[right].keys())
        changed: dict[str, int] = {}
        for path in places:
            was, now = (_allowed_at(table[right], path) for table in (before, after))
            changed[path] = int(now) - int(was)
            above = next((changed[up] for up in at_and_above(path) if up != path and up in changed), 0)
            if changed[path] and changed[path] != above:
                yield _change(changed[path] > 0, f"fs.{right}" if right != "exec" else "process.exec", path)


def _allowed_at(table: dict[str, bool], path: str) -> bool:
    return next((table[up] for up in at_and_above(path) if up in table), False)


def _processes(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    before, after = _may_fork(old), _may_fork(new)
    if before is not after:
        yield _change(after, "process.fork", "")


def _may_fork(policy: PolicyModel) -> bool:
    if any(rule.operation == FORK and not rule.allow for rule in policy.processes):
        return False
    return any(rule.allow for rule in policy.processes) or any("exec" in rule.allow for rule in policy.files)


# -- network ----------------------------------------------------------------------------------------------------------


class Networks:
    """The rules of one action: addresses as ranges, everything else (hosts, sockets, variables) by name."""

    def __init__(self, rules: tuple[NetworkRule, ...], action: str) -> None:
        self.ranges: list[tuple[_Network, int, int, bool]] = []
        self.named: dict[tuple[str, str, int, int], bool] = {}
        for rule in rules:
            if rule.action != action:
                continue
            target = units.net_target(rule.target, action=action)
            networks: list[_Network] = []
            if target.kind == "any":
                networks = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
            elif target.kind == "ip":
                networks = [ipaddress.ip_network(f"{target.host}/{target.prefix}")]
            else:
                self.named[target.kind, target.host, target.port_low, target.port_high] = rule.allow
            self.ranges += [(network, target.port_low, target.port_high, rule.allow) for network in networks]

    def allows(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
        """Tell whether the most specific range around address and port allows it."""
        found = [
            (network.prefixlen, low - high, not allow)
            for network, low, high, allow in self.ranges
            if network.version == address.version and address in network and low <= port <= high
        ]
        return bool(found) and not max(found)[2]


def _web(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    """Compare HTTP rules as they are written: what one grants and another denies in part is both."""
    before, after = (
        {rule.target: rule.allow for rule in policy.network if rule.action == "http"} for policy in (old, new)
    )
    for target in sorted(before.keys() | after.keys()):
        was, now = before.get(target), after.get(target)
        if was is not now:
            yield _change(now or (now is None and not was), "net.http", target)


def _network(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    for action in ("connect", "bind"):
        before, after = Networks(old.network, action), Networks(new.network, action)
        for key in sorted(before.named.keys() | after.named.keys()):
            was, now = before.named.get(key, False), after.named.get(key, False)
            if was is not now:
                yield _change(now, f"net.{action}", str(units.NetTarget(key[0], key[1], 0, key[2], key[3])))
        yield from _ranges(before, after, action)


def _ranges(before: Networks, after: Networks, action: str) -> Iterator[Change]:
    every = before.ranges + after.ranges
    edges = sorted({low for _, low, _, _ in every} | {high + 1 for _, _, high, _ in every})
    networks = sorted(
        {network for network, *_ in every}, key=lambda n: (n.version, n.prefixlen, int(n.network_address))
    )
    seen: dict[_Network, list[int]] = {}
    for network in networks:
        sample = _sample(network, networks)
        if sample is None:
            continue
        effect = [int(after.allows(sample, low)) - int(before.allows(sample, low)) for low in edges[:-1]]
        around = [other for other in seen if _within(network, other)]
        above = seen[max(around, key=lambda n: n.prefixlen)] if around else [0] * len(effect)
        seen[network] = effect
        for (low, high), sign in _runs(edges, [e if e != a else 0 for e, a in zip(effect, above, strict=True)]):
            target = units.NetTarget("ip", str(network.network_address), network.prefixlen, low, high)
            yield _change(sign > 0, f"net.{action}", str(target))


def _runs(edges: list[int], effect: list[int]) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield port ranges of equal, non-zero effect, neighbours joined."""
    start = 0
    for i in range(len(effect)):
        if i + 1 == len(effect) or effect[i + 1] != effect[i]:
            if effect[i]:
                yield (edges[start], edges[i + 1] - 1), effect[i]
            start = i + 1


def _within(inner: _Network, outer: _Network) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _sample(network: _Network, others: list[_Network]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address of `network` that no narrower one of `others` holds, or None where they cover it."""
    narrower = sorted(
        (other for other in others if other != network and _within(other, network)),
        key=lambda other: int(other.network_address),
    )
    at = int(network.network_address)
    for other in narrower:
        if int(other.network_address) > at:
            break
        at = max(at, int(other.broadcast_address) + 1)
    return type(network.network_address)(at) if at <= int(network.broadcast_address) else None


# -- imports, and all that is no list of rules ------------------------------------------------------------------------


def _imports(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    for kind, capability in (("module", "import.module"), ("native", "import.native")):
        before, after = name_table(old.imports, kind), name_table(new.imports, kind)
        names = sorted(before.keys() | after.keys(), key=lambda name: (name != "*", name not in VARIABLES, name))
        changed: dict[str, int] = {}
        for name in names:
            changed[name] = int(decided(after, name)) - int(decided(before, name))
            above = next((changed[up] for up in _wider(name) if up in changed), 0)
            if changed[name] and changed[name] != above:
                yield _change(changed[name] > 0, capability, name)
            elif kind == "module":
                alone = int(_importable(after, name)) - int(_importable(before, name))
                if alone and alone != changed[name]:
                    yield _change(alone > 0, capability, name)


def _wider(name: str) -> Iterator[str]:
    """Yield the patterns that would cover `name` where no rule of its own does, nearest first."""
    if name.startswith("/"):
        yield from (up for up in at_and_above(name) if up != name)
    top = name
    while "." in name and not name.startswith("/"):
        name = name.rpartition(".")[0]
        top = name
        yield name
    if name == NO_FFI:
        yield STDLIB
    yield from variables_of(top)
    if top != "*":
        yield "*"


def decided(table: dict[str, bool], name: str) -> bool:
    """Return what the most specific rule of `name_table` says of a module; False where none speaks of it."""
    return next((table[up] for up in (name, *_wider(name)) if up in table), False)


def _importable(table: dict[str, bool], name: str) -> bool:
    """Tell whether this very module may be imported: by a rule, or to reach a granted one within it."""
    if any(up in table for up in (name, *_wider(name))):
        return decided(table, name)
    return any(allow and below.startswith(f"{name}.") for below, allow in table.items())


def _sections(old: PolicyModel, new: PolicyModel) -> Iterator[Change]:
    for section in SECTIONS:
        for widened, what, target in section.differences(old, new):
            yield _change(widened, what, target)
