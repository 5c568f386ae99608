"""What a policy grants that is nearest to what it refuses: for the event and the words of the refusal."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ..capability import CATALOGUE, Capability
from . import web
from .compiled import CompiledPolicy, NetAction, NetRule
from .standard_library import VARIABLES

# Plain numbers: `&` on an enum.Flag costs a microsecond, and a refusal does it for every rule of the policy. Of native
# modules other rules decide (`_native`).
FS_BITS: dict[Capability, int] = {
    capability: entry.right.value
    for capability, entry in CATALOGUE.items()
    if entry.right is not None and capability is not Capability.IMPORT_NATIVE
}

#: Of so many grants side by side, as a preset has them in /usr/bin, none is nearer than the others.
_MANY = 4


class NearGrants:
    """Finds the nearest grant of one policy. Cheap to make: what is compared is made at the first refusal."""

    __slots__ = ("_granted", "_policy")

    def __init__(self, policy: CompiledPolicy) -> None:
        self._policy = policy
        #: what a refusal of the capability may name, with its parts
        self._granted: dict[Capability, list[tuple[str, list[str]]]] = {}

    def grant(self, capability: Capability, target: str) -> tuple[bool, str | None]:
        """Return whether any rule grants the capability, and the nearest grant as "capability target".

        A grant that has nothing to do with the target is no near one. What `@` variables grant is left out.
        """
        if capability is Capability.NET_HTTP:
            near = web.nearest(self._policy.web, target)
            return near is not None, None if near is None else f"{capability} {near}"
        if capability in FS_BITS:
            separator, apart = "/", 1  # every path begins at "/"
        elif CATALOGUE[capability].group == "net":
            separator, apart = ":", -1  # any address may be meant for any other
        elif capability in (Capability.IMPORT_MODULE, Capability.IMPORT_NATIVE):
            separator, apart = ".", 0
        else:
            return False, None
        granted = self._granted.get(capability)
        if granted is None:
            granted = self._granted[capability] = [(one, one.split(separator)) for one in self._grants(capability)]
        if separator == ":":
            unix = target.startswith("unix:")
            granted = [one for one in granted if one[0].startswith("unix:") == unix]
        shared, near, others = _nearest(granted, target.split(separator))
        within = f"{target}/".startswith(f"{near}/")
        related = shared > apart and (separator != "/" or others < _MANY or within)
        return near is not None, f"{capability} {near}" if related else None

    def _grants(self, capability: Capability) -> Iterable[str]:
        bit = FS_BITS.get(capability)
        if bit is not None:
            return (
                rule.path
                for rule in self._policy.fs
                if rule.allow & bit and rule.origin in ("fs", "process") and rule.path in rule.text
            )
        if CATALOGUE[capability].group == "net":
            action = net_action(capability)
            return (_endpoint(rule) for rule in self._policy.net if rule.allow and rule.action == action)
        patterns = self._policy.imports if capability is Capability.IMPORT_MODULE else self._policy.natives
        return (pattern.name for pattern in patterns if pattern.allow and pattern.name not in VARIABLES)


def net_action(capability: Capability) -> int:
    """Return which rules of `net` speak of a capability."""
    return NetAction.BIND if capability in (Capability.NET_BIND, Capability.NET_LISTEN) else NetAction.CONNECT


def _endpoint(rule: NetRule) -> str:
    if rule.unix_path is not None:
        return f"unix:{rule.unix_path}"
    ports = str(rule.port_low) if rule.port_low == rule.port_high else f"{rule.port_low}-{rule.port_high}"
    host = rule.host or str(ipaddress.ip_address(rule.address))
    if rule.prefix == 0:
        host = "*"
    elif rule.host is None:
        host = f"[{host}]" if len(rule.address) == 16 else host
        host += "" if rule.prefix == 8 * len(rule.address) else f"/{rule.prefix}"
    return f"{host}:{'*' if (rule.port_low, rule.port_high) == (0, 65535) else ports}"


def _nearest(granted: Iterable[tuple[str, list[str]]], wanted: list[str]) -> tuple[int, str | None, int]:
    """Return how many leading parts a text shares with what is wanted, the first that shares most, how many more do."""
    most, near, others = -1, None, 0
    for text, parts in granted:
        shared = 0
        for ours, theirs in zip(parts, wanted, strict=False):
            if ours != theirs:
                break
            shared += 1
        if shared > most:
            most, near, others = shared, text, 0
        elif shared == most:
            others += 1
    return most, near, others
