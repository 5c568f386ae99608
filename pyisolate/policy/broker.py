"""The broker: compiled policy + operation -> decision. No I/O, no state; it runs in the guest for every hook.

It is for good errors, origin and Python-level rules, never the boundary: the kernel reads the same tables.

Facts that hooks may pass to `decide` (unknown ones are ignored):
- `listing=True` with fs.read: the target is a directory that is only listed (importlib searching for a module);
- `look=True` with fs.metadata: it is looked at (stat), which any right allows, not changed (chmod, utime);
- `special=True` with fs.create and fs.metadata: it makes a device file, a socket, or a set-user-id or set-group-id one;
- `importer="pandas.core"` with import.module: the `__name__` of the module whose code imports, None for the guest's;
- `path="/.../x.so"` with import.native: the file that is loaded;
- `inside=True` with process.signal: the receiver belongs to the sandbox;
- `pair=True` with net.socket: a socket pair, which reaches no other process;
- `v6only=True` with net.bind and net.listen: the socket has IPV6_V6ONLY, so that [::] takes no IPv4 address;
- `by_proxy=True` with net.connect: the egress proxy asks, so that the proxy is no way that is left.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from ..capability import CATALOGUE, FLOOR, Capability
from ..decision import UNRESOLVED, Decision, DenialCode, Mode, Verdict
from . import addresses, asking, web, workspace
from .addresses import destination, has_address, has_port, takes_ipv4
from .compiled import CompiledPolicy, FsRight, FsRule, NamePattern, NetAction, NetRule
from .near_grants import FS_BITS, NearGrants, net_action
from .sockets import is_past_rules
from .standard_library import variables_of

#: Any of these rights shows that a file is there.
_LOOKING = (FsRight.READ, FsRight.WRITE, FsRight.CREATE, FsRight.DELETE, FsRight.EXEC, FsRight.MAP_EXEC)
#: The families that rules can speak of; all others reach past every rule, or into the kernel: part of the floor.
_FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX")
_Answer = tuple[str | None, DenialCode | None, str]
_GRANTED: _Answer = (None, None, "")
#: What the filter of system calls refuses whatever file it is (kernel/seccomp).
SPECIAL_FILE = "no policy can grant set-user-id or set-group-id bits, nor device files, nor sockets that no bind made"
#: What the host is asked about also where no address is named.
_ASKED_BY_NAME = (Capability.PROCESS_EXEC, Capability.NET_HTTP)


class Broker:
    """Decides operations by one compiled policy. Cheap to make: a table is built when it is first needed."""

    __slots__ = ("_deciders", "_files", "_names", "_near", "_parents", "policy")

    def __init__(self, compiled: CompiledPolicy) -> None:
        self.policy = compiled
        self._files: dict[str, FsRule] = {rule.path: rule for rule in compiled.fs}
        self._near = NearGrants(compiled)
        self._names: dict[str, dict[str, NamePattern]] = {}
        self._parents: dict[str, frozenset[str]] = {}
        self._deciders: dict[str, Callable[[Capability, str, dict[str, Any]], _Answer]] = {
            Capability.NET_CONNECT: self._net,
            Capability.NET_SEND: self._net,
            Capability.NET_BIND: self._net,
            Capability.NET_LISTEN: self._net,
            Capability.NET_HTTP: self._http,
            Capability.NET_SOCKET: self._socket,
            Capability.IPC_UNIX: self._unix,
            Capability.PROCESS_FORK: self._fork,
            Capability.PROCESS_SIGNAL: self._signal,
            Capability.IMPORT_MODULE: self._module,
            Capability.IMPORT_NATIVE: self._native,
            Capability.RANDOM_READ: self._random,
            Capability.MEMORY_EXEC: self._memory,
            Capability.FS_LOOKUP: self._look,
        }

    def decide(self, capability: Capability, target: str, **facts: Any) -> Decision:
        """Return the decision for one operation; see the module for the facts that refine it.

        Targets: an absolute path; "address:port", "[v6]:port", "host:port" or "unix:/path"; a module name.
        """
        bit = FS_BITS.get(capability)
        if bit is not None:
            rule, code, reason = self._file(capability, bit, target, facts)
        elif (decider := self._deciders.get(capability)) is not None:
            rule, code, reason = decider(capability, target, facts)
        elif capability in self.policy.switches:
            rule, code, reason = _GRANTED
        else:
            rule, code, reason = _unruled(Capability(capability))
        if code is None:
            return Decision(verdict=Verdict.ALLOW, capability=capability, target=target, rule=rule)
        return self._refusal(Capability(capability), target, rule, code, reason)

    def _refusal(
        self, capability: Capability, target: str, rule: str | None, code: DenialCode, reason: str
    ) -> Decision:
        monitored = (
            self.policy.mode_of(CATALOGUE[capability].group) is Mode.MONITOR and code is not DenialCode.ALWAYS_DENIED
        )
        held, presented = self._near.grant(capability, target)
        if code is DenialCode.NOT_GRANTED and held:
            code = DenialCode.SCOPE_INSUFFICIENT
        return Decision(
            verdict=Verdict.WOULD_DENY if monitored else Verdict.DENY,
            capability=capability,
            target=target,
            code=code,
            reason=reason or _reason(code, capability, target, rule, presented),
            rule=rule,
            presented=presented,
        )

    # -- files and programs -------------------------------------------------------------------------------------------

    def _file(self, capability: Capability, bit: int, target: str, facts: dict[str, Any]) -> _Answer:
        if facts.get("special"):
            return None, DenialCode.ALWAYS_DENIED, SPECIAL_FILE
        path = _normal(target)
        if path is None:
            return None, DenialCode.NOT_GRANTED, f"{target!r} is not an absolute path, so no rule can speak of it"
        rule = self._deciding(path, bit)
        if rule is not None and not rule.deny & bit:
            return rule.text, None, ""
        if facts.get("look") and any(not self._file(capability, other, target, {})[1] for other in _LOOKING):
            return _GRANTED
        if facts.get("listing") and bit == FsRight.READ and rule is None:
            listed = self._files.get(path)
            if listed is not None and listed.allow & FsRight.LIST:
                return listed.text, None, ""
        if rule is not None and rule.text:
            return rule.text, DenialCode.EXPLICIT_DENY, ""
        return None, DenialCode.NOT_GRANTED, ""

    def _look(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        """Decide whether a file can be found: any right shows it, and that there is a grant below it."""
        found = self._file(capability, FsRight.READ, target, {"look": True})
        path = (_normal(target) or target).rstrip("/")
        if found[1] is None or any(
            rule.allow & ~rule.deny and (rule.path == path or rule.path.startswith(f"{path}/"))
            for rule in self.policy.fs
        ):
            return _GRANTED
        return found

    def _deciding(self, path: str, bit: int) -> FsRule | None:
        """Return the longest rule on the way to `path` that speaks of the right."""
        get = self._files.get
        while True:
            rule = get(path)
            if rule is not None and (rule.allow | rule.deny) & bit:
                return rule
            if path == "/":
                return None
            path = path[: path.rfind("/")] or "/"

    # -- network ------------------------------------------------------------------------------------------------------

    def _net(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        action = net_action(capability)
        if target.startswith("unix:"):
            return self._unix_socket(action, target[5:], sends=capability is Capability.NET_SEND)
        host, port = _split(target)
        addresses = self._addresses(host)
        if not addresses:
            return self._unpinned(action, host, port, facts)
        refusal: _Answer = (None, DenialCode.NOT_GRANTED, "")
        for address in addresses:
            if action == NetAction.CONNECT:
                address = destination(address)
            rule = self._net_rule(action, address, port, capability is Capability.NET_LISTEN)
            if rule is not None and rule.allow:
                if action == NetAction.BIND and takes_ipv4(address) and not facts.get("v6only"):
                    return self._both_families(capability, port, rule)
                return rule.text, None, ""
            if rule is not None:
                refusal = (rule.text, DenialCode.EXPLICIT_DENY, "")
        past_proxy = action == NetAction.CONNECT and not facts.get("by_proxy")
        by_name = web.reached_by_proxy(self.policy.web, None, port) if past_proxy else None
        if refusal[0] is None and by_name is not None:
            reason = f"no rule grants this address; hosts of {by_name.text} are reached through {web.PROXY_ALONE}"
            refusal = (None, DenialCode.NOT_GRANTED, reason)
        return refusal

    def _both_families(self, capability: Capability, port: int | None, granted: NetRule) -> _Answer:
        """Decide [::], which is granted as such, for IPv4: the kernel takes every address of that with it."""
        rule = self._net_rule(NetAction.BIND, bytes(4), port, capability is Capability.NET_LISTEN)
        if rule is not None and rule.allow:
            return granted.text, None, ""
        reason = "[::] takes every IPv4 address as well, unless the socket has IPV6_V6ONLY"
        if rule is not None:
            return rule.text, DenialCode.EXPLICIT_DENY, f"{reason}: denied by {rule.text}"
        return None, DenialCode.NOT_GRANTED, f"{reason}, and no rule grants 0.0.0.0 there"

    def _addresses(self, host: str) -> list[bytes]:
        address = addresses.packed(host)
        if address is not None:
            return [address]
        pinned = self.policy.pinned_hosts.get(host.lower().rstrip("."), ())
        return [packed for text in pinned if (packed := addresses.packed(text)) is not None]

    def _unpinned(self, action: int, host: str, port: int | None, facts: dict[str, Any]) -> _Answer:
        """Decide a name that no rule pins: only a rule for every address can be meant to cover it."""
        if host.lower().rstrip(".") in self.policy.pinned_hosts:
            reason = f"{host} is granted, but {UNRESOLVED}"
            return None, DenialCode.NOT_GRANTED, reason
        by_name = web.reached_by_proxy(self.policy.web, host.lower().rstrip("."), port)
        if by_name is not None:
            reason = f"{by_name.text} grants it through {web.PROXY_ALONE}, not by address"
            return None, DenialCode.NOT_GRANTED, "" if facts.get("by_proxy") else reason
        for rule in self.policy.net:
            if rule.action == action and rule.address and rule.prefix == 0 and has_port(rule, port):
                return (rule.text, None, "") if rule.allow else (rule.text, DenialCode.EXPLICIT_DENY, "")
        return None, DenialCode.NOT_GRANTED, ""

    def _net_rule(self, action: int, address: bytes, port: int | None, listening: bool) -> NetRule | None:
        length = len(address)
        number = int.from_bytes(address)
        for rule in self.policy.net:
            if rule.action != action or not has_address(rule, length, number):
                continue
            # A listener on a port that the kernel picked was allowed when it was bound to port 0.
            if has_port(rule, port) or (listening and rule.port_high == 0):
                return rule
        return None

    def _http(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        """Decide what the egress proxy is asked for; where a name leads is decided then (`reaches`)."""
        request = web.parse(target)
        if request is None:
            return None, DenialCode.ALWAYS_DENIED, f"{target!r} is not a request that a rule can speak of"
        denial = web.denied_by_name(self.policy.net, request.host, request.port)
        if denial is not None:
            return denial.text, DenialCode.EXPLICIT_DENY, ""
        rule = web.deciding(self.policy.web, request)
        if rule is not None:
            return (rule.text, None, "") if rule.allow else (rule.text, DenialCode.EXPLICIT_DENY, "")
        answer = self._net(Capability.NET_CONNECT, request.place, {"by_proxy": True})
        if answer[1] is not None and self.policy.inspect_tls and request.method == web.CONNECT:
            inside = web.granted_inside(self.policy.web, request)
            return answer if inside is None else (inside.text, None, "")
        return answer

    def reaches(self, address: str, port: int) -> tuple[str | None, DenialCode | None, str]:
        """Decide an address that a granted name turned out to have: rule, code (None: yes) and reason.

        One of the Internet's needs no rule of its own, any other does; a rule that denies it decides.
        """
        packed = addresses.packed(address)
        if packed is None:
            return None, DenialCode.ALWAYS_DENIED, f"{address!r} is no address"
        rule = self._net_rule(NetAction.CONNECT, destination(packed), port, False)
        if rule is not None:
            return (rule.text, None, "") if rule.allow else (rule.text, DenialCode.EXPLICIT_DENY, "")
        if web.is_public(ipaddress.ip_address(packed)):
            return _GRANTED
        reason = f"{address} is not an address of the Internet, and no rule grants it by itself"
        return None, DenialCode.SCOPE_INSUFFICIENT, reason

    def _unix_socket(self, action: int, path: str, *, sends: bool = False) -> _Answer:
        return workspace.judge_socket(self.policy, action, _normal(path) or path, sends=sends)

    def _unix(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        action = NetAction.BIND if facts.get("bind") else NetAction.CONNECT
        return self._unix_socket(action, target.removeprefix("unix:"))

    def _socket(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        family = target.partition("/")[0].strip()
        foreign = bool(family) and family not in _FAMILIES
        unix = family == "AF_UNIX"  # which takes SOCK_RAW for datagrams: unix(7)
        if foreign or is_past_rules(target) or (not unix and ("SOCK_RAW" in target or "SOCK_PACKET" in target)):
            return None, DenialCode.ALWAYS_DENIED, ""
        if facts.get("pair"):
            return _GRANTED
        reached = any(rule.allow and (rule.unix_path is not None) == unix for rule in self.policy.net)
        if reached or (unix and self.policy.own_sockets):
            return _GRANTED
        if not unix and Capability.NET_CONNECT in self.policy.ask:
            return _GRANTED  # it reaches nothing before its connection was asked about
        kind = f"an {family} socket" if family else "a socket"
        return None, DenialCode.NOT_GRANTED, f"no net rule grants anything that {kind} could reach"

    # -- processes, random, memory ------------------------------------------------------------------------------------

    def _fork(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        if self.policy.allow_fork:
            return _GRANTED
        denied = self.policy.denied_fork
        return denied, DenialCode.EXPLICIT_DENY if denied else DenialCode.NOT_GRANTED, ""

    def _signal(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        return _GRANTED if facts.get("inside") else (None, DenialCode.ALWAYS_DENIED, "")

    def _random(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        return _GRANTED if self.policy.allow_random else ("random: {allow: false}", DenialCode.EXPLICIT_DENY, "")

    def _memory(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        if self.policy.allow_jit:
            return "memory: {jit: true}", None, ""
        # Memory that is written and run is native code of any origin.
        pattern = self._table("natives").get("*")
        if pattern is not None and pattern.allow:
            return pattern.text, None, ""
        return None, DenialCode.NOT_GRANTED, "only `memory: {jit: true}` grants memory that is written and then run"

    # -- imports ------------------------------------------------------------------------------------------------------

    def _table(self, field: str) -> dict[str, NamePattern]:
        table = self._names.get(field)
        if table is None:
            patterns: tuple[NamePattern, ...] = getattr(self.policy, field)
            table = self._names[field] = {pattern.name: pattern for pattern in patterns}
            self._parents[field] = frozenset(
                name for pattern in patterns if pattern.allow for name in _parents(pattern.name)
            )
        return table

    def _match(self, field: str, name: str) -> NamePattern | None:
        """Return the most specific pattern: the longest dotted prefix, then a variable, then `*`."""
        table = self._table(field)
        prefix = name
        while prefix:
            pattern = table.get(prefix)
            if pattern is not None:
                return pattern
            prefix = prefix.rpartition(".")[0]
        variables = variables_of(name.partition(".")[0])
        return next((table[one] for one in (*variables, "*") if one in table), None)

    def _module(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        pattern = self._match("imports", target)
        if pattern is not None and not pattern.allow:
            return pattern.text, DenialCode.EXPLICIT_DENY, ""
        if pattern is not None:
            return pattern.text, None, ""
        if target in self._parents["imports"]:  # importing a.b.c imports a and a.b first
            return _GRANTED
        importer = facts.get("importer")
        if importer and self._trusted(importer):
            pattern = self._match("transitive", target)
            if pattern is not None and pattern.allow:
                return pattern.text, None, ""
        return None, DenialCode.NOT_GRANTED, ""

    def _trusted(self, importer: str) -> bool:
        return any(
            pattern is not None and pattern.allow
            for pattern in (self._match("imports", importer), self._match("transitive", importer))
        )

    def _native(self, capability: Capability, target: str, facts: dict[str, Any]) -> _Answer:
        path = facts.get("path")
        if target.startswith("/") or not target:
            return self._library(path or target)
        if "/" not in target and (target.endswith(".so") or ".so." in target):
            return self._library_named(target)
        pattern = self._match("natives", target)
        if pattern is None:
            return None, DenialCode.NOT_GRANTED, ""
        if not pattern.allow:
            return pattern.text, DenialCode.EXPLICIT_DENY, ""
        answer = self._library(path) if path else _GRANTED
        return answer if answer[1] is not None else (pattern.text, None, "")

    def _library(self, path: str) -> _Answer:
        if not path:  # dlopen(NULL): the process itself
            return _GRANTED
        return self._file(Capability.IMPORT_NATIVE, FsRight.MAP_EXEC.value, path, {})

    def _library_named(self, soname: str) -> _Answer:
        """Decide a bare library name, which the loader will look up: some rule must grant a file of that name."""
        for path, rule in self._files.items():
            if rule.allow & ~rule.deny & FsRight.MAP_EXEC and path.rpartition("/")[2] == soname:
                return rule.text, None, ""
        pattern = self._table("natives").get("*")
        if pattern is not None and pattern.allow:
            return pattern.text, None, ""
        return None, DenialCode.NOT_GRANTED, ""


#: What a refusal says where the decider has nothing better.
_REASONS = {
    DenialCode.NOT_GRANTED: "no rule grants {capability}",
    DenialCode.SCOPE_INSUFFICIENT: "{held} is granted, which does not reach {target}",
    DenialCode.EXPLICIT_DENY: "denied by {rule}",
    DenialCode.ALWAYS_DENIED: "{capability} is never granted by any policy",
    DenialCode.LIMIT_EXCEEDED: "{capability} is decided by the limits, not by rules",
    DenialCode.TOKEN_INVALID: "{capability} belongs to the supervisor",
}


def _reason(code: DenialCode, capability: Capability, target: str, rule: str | None, near: str | None) -> str:
    if code is DenialCode.SCOPE_INSUFFICIENT and near is None:
        return f"no rule grants {capability} there"
    return _REASONS[code].format(capability=capability, target=target, rule=rule, held=near)


def _unruled(capability: Capability) -> _Answer:
    """Answer for what no policy rule speaks of."""
    if capability in FLOOR:
        return None, DenialCode.ALWAYS_DENIED, ""
    if capability.family == "limit":
        return None, DenialCode.LIMIT_EXCEEDED, ""
    if capability.family == "control":
        return None, DenialCode.TOKEN_INVALID, ""
    return None, DenialCode.NOT_GRANTED, ""


def _normal(path: str) -> str | None:
    """Return an absolute path without `.`, `..` and empty parts, None for a relative one."""
    if not path.startswith("/"):
        return None
    if "/." not in path and "//" not in path and (path[-1] != "/" or path == "/"):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _split(target: str) -> tuple[str, int | None]:
    """Split "host:port"; the port is None for a bare host or `*`, which then means "on any port"."""
    host, colon, port = target.rpartition(":")
    if not colon or "]" in port:
        return target.strip("[]"), None
    if host.startswith("["):
        return host.strip("[]"), int(port) if port.isdecimal() else None
    if ":" in host:  # a bare IPv6 address
        return target, None
    return host, int(port) if port.isdecimal() else None


def is_asked_about(policy: CompiledPolicy, decision: Decision) -> bool:
    """Tell whether the host is asked before an operation is refused: no rule speaks of what it names."""
    if not decision.refused or not asking.asks_about(policy, decision.capability, decision.target):
        return False
    if decision.capability is Capability.PROCESS_EXEC and not asking.asks_about_programs(policy):
        return False
    by_name = decision.capability in _ASKED_BY_NAME or decision.capability in policy.ask_rules.files
    named = by_name or addresses.packed(_split(decision.target)[0]) is not None
    return named and is_unspoken_of(decision.code)


def is_unspoken_of(code: DenialCode | None) -> bool:
    """Tell whether no rule speaks of what was refused."""
    return code in (DenialCode.NOT_GRANTED, DenialCode.SCOPE_INSUFFICIENT)


def _parents(name: str) -> Iterable[str]:
    while "." in name and not name.startswith("/"):
        name = name.rpartition(".")[0]
        yield name
