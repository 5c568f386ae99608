"""`Policy` -> `CompiledPolicy`: the tables that broker and kernel read.

Meaning never depends on the running kernel; it does depend on this machine's files: variables, modules, linked
libraries and symbolic links are looked up, and host names are pinned to the addresses they have now.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

import msgspec

from ..capability import Capability
from ..errors import EnforcementError
from . import asking, elf, site, units, workspace
from . import resolver as resources
from .addresses import destination
from .broker import Broker, is_asked_about
from .compiled import GATED, AskRules, CompiledPolicy, FsRight, FsRule, NetAction, NetRule, WebRule
from .fs_table import FsTable
from .imports import ImportCompiler
from .interpreter import InterpreterFiles
from .model import PolicyModel
from .rules import EXEC, FILE_RIGHTS, FORK, FileRule, NetworkRule, ProcessRule
from .web import web_rule, web_rules

RIGHT_BITS = {right: FsRight[right.upper()] for right in FILE_RIGHTS}
RUN = FsRight.EXEC | FsRight.READ | FsRight.MAP_EXEC
_LOAD = FsRight.READ | FsRight.MAP_EXEC


#: What a right is no use without: programs are read and mapped to be run; copying a file sets its mode and times.
_NEEDED = {"exec": RUN, "write": FsRight.METADATA, "create": FsRight.METADATA, "delete": FsRight.METADATA}


def compile_policy(
    policy: PolicyModel,
    *,
    interpreter: InterpreterFiles | None = None,
    resolve: resources.Resolve | None = None,
    generation: int = 1,
) -> CompiledPolicy:
    """Return the policy's tables for `interpreter` (default: the running one).

    `resolve` turns a host name into addresses (default: getaddrinfo). A granted host that does not resolve grants
    nothing; a denied one raises EnforcementError, as does an environment that cannot be used.
    """
    interpreter = site.interpreter_of(policy, interpreter)
    table = FsTable()
    _files(table, policy.files, interpreter)
    _programs(table, policy.processes, interpreter)
    asked = _ask_rules(policy)
    _asked_programs(table, asked, interpreter)
    imports = ImportCompiler(table, interpreter)
    imports.compile(policy.imports)
    _random(table, policy)
    workspace.grant(table, policy)
    packages = site.grant_site(table, policy)
    web = web_rules(policy.network)
    _opened(policy, web)
    net, pinned = _network(policy.network, resolve or resources.resolve_host)
    return CompiledPolicy(
        name=policy.name,
        version=policy.version,
        generation=generation,
        mode=policy.mode,
        group_modes=dict(policy.modes),
        fs=table.rules(),
        net=net,
        allow_fork=_may_fork(policy),
        denied_fork=_denied_fork(policy),
        imports=imports.modules(),
        natives=imports.natives(),
        transitive=imports.transitive(),
        allow_jit=policy.jit,
        switches=policy.switches,
        allow_random=policy.random,
        random_seed=policy.random_seed,
        pinned_hosts=pinned,
        limits=policy.limits,
        web=web,
        egress=policy.egress,
        inspect_tls=policy.inspect_tls,
        ask=tuple(dict.fromkeys(map(asking.capability_of, policy.ask))),
        ask_rules=asked,
        workspace_bytes=policy.workspace,
        site=packages,
        reasons={rule.text: rule.reason for rule in policy.rules if rule.reason is not None},
    )


def _denied_fork(policy: PolicyModel) -> str | None:
    return next((rule.text for rule in policy.processes if rule.operation == FORK and not rule.allow), None)


def _may_fork(policy: PolicyModel) -> bool:
    runs = any(rule.allow for rule in policy.processes) or any("exec" in rule.allow for rule in policy.files)
    runs = runs or any(asking.capability_of(entry) is Capability.PROCESS_EXEC for entry in policy.ask)
    return runs and _denied_fork(policy) is None


def _opened(policy: PolicyModel, web: Iterable[WebRule]) -> None:
    """Raise EnforcementError where a policy speaks of requests inside of TLS, and does not have it opened."""
    if policy.inspect_tls:
        return
    rules = [(rule.text, rule.tls) for rule in web] + [(f"secret {one.name}", one.tls) for one in policy.secrets]
    if (found := next((text for text, tls in rules if tls), None)) is not None:
        raise EnforcementError(
            f"policy {policy.name!r}, {found}: method and path are inside of TLS, which this policy does not open",
            rule=found,
            missing="egress: {inspect_tls: true}",
            hint="add egress: {inspect_tls: true}, or grant the host: {connect: ...}",
        )


def without_workspace(compiled: CompiledPolicy) -> CompiledPolicy:
    """Return the tables for a sandbox that can have no workspace."""
    rules = tuple(rule for rule in compiled.fs if rule.origin != "workspace")
    return msgspec.structs.replace(compiled, fs=rules, workspace_bytes=None)


# -- files ------------------------------------------------------------------------------------------------------------


def stated_bits(rule: FileRule) -> tuple[int, int]:
    """Return the rights that a file rule allows and denies, with what they need."""
    allow = deny = 0
    for right in rule.allow:
        allow |= RIGHT_BITS[right] | _NEEDED.get(right, 0)
    for right in rule.deny:
        deny |= RIGHT_BITS[right]
    if "write" in rule.deny and "metadata" not in rule.allow:
        deny |= FsRight.METADATA
    return int(allow), int(deny)


def _files(table: FsTable, rules: Iterable[FileRule], interpreter: InterpreterFiles) -> None:
    for rule in rules:
        allow, deny = stated_bits(rule)
        if rule.path == "@interpreter":
            _interpreter(table, interpreter, allow, deny, rule.text)
        elif rule.path.startswith("@"):
            for path in interpreter.zoneinfo if rule.path == "@zoneinfo" else _VARIABLES[rule.path]():
                table.add(path, allow, deny, text=rule.text, origin="system", implied=True)
        else:
            table.add(rule.path, allow, deny, text=rule.text, origin="fs")
            if "exec" in rule.allow:
                _needs_at(table, rule.path, rule.text, interpreter)


def _interpreter(table: FsTable, interpreter: InterpreterFiles, allow: int, deny: int, text: str) -> None:
    places = (interpreter.stdlib, *interpreter.binaries, *interpreter.libraries, *interpreter.loader_data)
    read = allow & ~RIGHT_BITS["exec"]
    for path in (*places, *((interpreter.lib_dynload,) if interpreter.lib_dynload else ())):
        table.add(path, read, deny, text=text, origin="system", implied=True)
    if allow & FsRight.EXEC:  # the program alone, not all of its files
        for path in (path for path in interpreter.binaries if os.access(path, os.X_OK)):
            table.add(path, allow, deny, text=text, origin="system", implied=True)
            _needs_of_programs(table, path, text, interpreter)
    for path in interpreter.excluded:
        table.edge(path)


_VARIABLES = {
    "@certificates": resources.certificates,
    "@devices": resources.devices,
    "@processors": resources.processors,
    "@resolver": resources.resolver_files,
}


# -- programs ---------------------------------------------------------------------------------------------------------


def _programs(table: FsTable, rules: Iterable[ProcessRule], interpreter: InterpreterFiles) -> None:
    for rule in rules:
        if rule.operation != EXEC:
            continue
        if not rule.allow:
            table.add(rule.path, 0, FsRight.EXEC, text=rule.text, origin="process", link=rule.path != workspace.HOME)
            continue
        table.add(rule.path, RUN, 0, text=rule.text, origin="process", link=rule.path != workspace.HOME)
        _needs_at(table, rule.path, rule.text, interpreter)


def _needs_at(table: FsTable, place: str, text: str, interpreter: InterpreterFiles) -> None:
    """Grant what the program at a place is linked to. Of what is yet to be made in a directory, the guest's own or the
    host's, the C library and its loader are known."""
    if place != workspace.HOME:  # on the host not at all
        _needs_of_programs(table, place, text, interpreter)
    if place == workspace.HOME or os.path.isdir(place):
        for program in interpreter.binaries:
            _needs_of_programs(table, program, text, interpreter)


def _asked_programs(table: FsTable, asked: AskRules, interpreter: InterpreterFiles) -> None:
    """Grant what programs that the host is asked about are linked to; they themselves wait at their gates."""
    for path in asked.programs:
        _needs_of_programs(table, path, f"ask: exec {path}", interpreter)


def with_gates(compiled: CompiledPolicy) -> CompiledPolicy:
    """Return the tables of what holds files: programs that the host is asked about are there, each with its gate.

    Those that a rule speaks of are not: they run, or never do.
    """
    if not asking.asks_about_programs(compiled):
        return compiled
    table = {rule.path: rule for rule in compiled.fs}
    broker = Broker(compiled)
    for path in compiled.ask_rules.programs:
        if not is_asked_about(compiled, broker.decide(Capability.PROCESS_EXEC, path)):
            continue
        rule = table.get(path, FsRule(path=path))
        table[path] = msgspec.structs.replace(rule, allow=rule.allow | RUN, text=f"ask: exec {path}", origin=GATED)
    return msgspec.structs.replace(compiled, fs=tuple(table[path] for path in sorted(table)))


def _needs_of_programs(table: FsTable, place: str, text: str, interpreter: InterpreterFiles) -> None:
    """Grant what the program at `place`, or those directly in it, are linked to."""
    programs = _programs_at(place)
    loaders = {found.interpreter for path in programs if (found := elf.read_elf(path)) and found.interpreter}
    for library in elf.closure(programs):
        # The kernel opens an ELF program's loader as a program (fs/binfmt_elf.c: open_exec).
        bits = RUN if library in loaders else _LOAD
        table.add(library, bits, 0, text=text, origin="process", implied=True)
    for path in interpreter.loader_data:
        table.add(path, FsRight.READ, 0, text=text, origin="process", implied=True)


def _programs_at(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        return sorted(entry.path for entry in os.scandir(path) if os.access(entry.path, os.X_OK) and entry.is_file())
    except OSError:
        return []


# -- random -----------------------------------------------------------------------------------------------------------


def _random(table: FsTable, policy: PolicyModel) -> None:
    for path in resources.RANDOM_DEVICES:
        if policy.random:
            table.add(path, FsRight.READ, 0, text="random: {allow: true}", origin="random", implied=True)
        elif table.granted(path) & FsRight.READ:
            table.add(path, 0, FsRight.READ, text="random: {allow: false}", origin="random")


# -- network ----------------------------------------------------------------------------------------------------------

_ANY = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(
    rules: Iterable[NetworkRule], resolve: resources.Resolve
) -> tuple[tuple[NetRule, ...], dict[str, tuple[str, ...]]]:
    compiled: list[NetRule] = []
    pinned: dict[str, tuple[str, ...]] = {}
    for rule in rules:
        if rule.action == "http" or (target := units.net_target(rule.target, action=rule.action)).kind == "names":
            continue
        action = NetAction.CONNECT if rule.action == "connect" else NetAction.BIND
        if target.kind == "unix":
            compiled.append(NetRule(action=action, unix_path=target.host, allow=rule.allow, text=rule.text))
            continue
        host = target.host if target.kind == "host" else None
        if host is not None and host not in pinned:
            pinned[host] = tuple(_addresses(host, resolve))
        if host is not None and not rule.allow and not pinned[host]:
            raise EnforcementError(
                f"policy, {rule.text}: {host} does not resolve, so its addresses cannot be denied",
                rule=rule.text,
                missing="an address",
                hint="deny an address or a range",
            )
        networks, low, high = _networks(target, pinned, leads_there=action is NetAction.CONNECT)
        compiled += [
            NetRule(
                action=action,
                address=network.network_address.packed,
                prefix=network.prefixlen,
                port_low=low,
                port_high=high,
                allow=rule.allow,
                host=host,
                text=rule.text,
            )
            for network in networks
        ]
    return tuple(sorted(compiled, key=_match_order)), pinned


def _ask_rules(policy: PolicyModel) -> AskRules:
    """Return the rules by which the host is asked. Those of a capability that is asked about whole say nothing."""
    connect: list[NetRule] = []
    web: list[WebRule] = []
    files: dict[str, list[str]] = {key: [] for key in asking.FILES}
    programs: dict[str, None] = {}
    for entry in policy.ask:
        key, _, target = entry.partition(" ")
        if not target or asking.capability_of(entry).value in policy.ask:
            continue
        if key in files:
            files[key].append(target)
        elif key == "exec":
            programs |= dict.fromkeys((target, os.path.realpath(target)))
        elif asking.leads_to_proxy(entry):
            web.append(web_rule(key, target, f"ask: {entry}"))
        else:
            networks, low, high = _networks(units.net_target(target, action="connect"), {}, leads_there=True)
            connect += [
                NetRule(
                    action=NetAction.CONNECT,
                    address=network.network_address.packed,
                    prefix=network.prefixlen,
                    port_low=low,
                    port_high=high,
                    text=f"ask: {entry}",
                )
                for network in networks
            ]
    of_files = {key: tuple(found) for key, found in files.items()}
    return AskRules(connect=tuple(connect), web=tuple(web), programs=tuple(programs), **of_files)


def _networks(
    target: units.NetTarget, pinned: dict[str, tuple[str, ...]], *, leads_there: bool
) -> tuple[list[_Network], int, int]:
    """Return the networks and ports of a rule. A connection to "any" address, written alone, leads to loopback."""
    if target.kind == "variable":
        return [ipaddress.ip_network(address) for address in resources.name_servers()], 53, 53
    if target.kind == "host":
        networks = [ipaddress.ip_network(address) for address in pinned[target.host]]
    elif target.kind == "any":
        networks = list(_ANY)
    else:
        networks = [ipaddress.ip_network(f"{target.host}/{target.prefix}")]
        if leads_there and networks[0].num_addresses == 1:
            networks = [ipaddress.ip_network(destination(networks[0].network_address.packed))]
    return networks, target.port_low, target.port_high


def _addresses(host: str, resolve: resources.Resolve) -> list[str]:
    found: dict[str, None] = {}
    for text in resolve(host):
        address = ipaddress.ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None)
        found[str(mapped or address)] = None
    return list(found)


def _match_order(rule: NetRule) -> tuple[int, int, int, int, bool, bytes, str]:
    """Most specific first: longer prefix, then narrower ports, then deny."""
    width = rule.port_high - rule.port_low
    return (rule.action, len(rule.address), -rule.prefix, width, rule.allow, rule.address, rule.unix_path or "")
