"""What looks wrong in a policy: grants that give away more than they seem to, and rules that do nothing.

Findings are advice. What can be judged from the text alone is; the rest (missing paths and modules, scripts) is
judged on this machine.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from collections.abc import Iterator

import msgspec

from ..decision import Mode
from . import packages, site, units, workspace
from .diff import Networks, at_and_above, decided, right_tables
from .interpreter import InterpreterFiles
from .model import PolicyModel
from .rules import EXEC, MODE_GROUPS, FileRule, NetworkRule, ProcessRule, name_table
from .standard_library import VARIABLES


class Severity(enum.StrEnum):
    """How much a finding matters."""

    DANGER = "danger"  # the guest can probably leave its policy, or read what its author did not mean to give
    WARNING = "warning"  # wider than it looks
    NOTE = "note"  # without effect, or worth knowing


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One remark: how much it matters, the rule it is about, what is wrong and what to do."""

    severity: Severity
    rule: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.rule}: {self.message}" + (f". Hint: {self.hint}" if self.hint else "")


_CREDENTIALS = (
    "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private", "/etc/ssh", "/etc/krb5.keytab", "/proc", "/sys",
    "/run", "/var/run", "/var/lib", "/var/log", "/boot", "/dev",
)  # fmt: skip
_HOMES = re.compile(r"/(?:root|home(?:/[^/]+)?)")
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc", "/boot", "/opt")
_RUNS_ANYTHING = re.compile(
    r"(?:ba|da|z|k|c|tc|fi|a)?sh|busybox|env|python[0-9.]*|pypy[0-9.]*|perl[0-9.]*|ruby[0-9.]*|lua[0-9.]*|node|deno|bun"
    r"|php[0-9.]*|java|awk|gawk|mawk|nawk|sed|vim?|emacs|ed|less|more|man|find|xargs|nice|nohup|timeout|setsid|strace|gdb"
    r"|ssh|scp|rsync|tar|make|gcc|cc|clang|ld\.so|ld-linux.*|ld-musl.*|git|docker|podman|systemd-run|unshare|nsenter|su|sudo"
)  # fmt: skip
_ROOT_SOCKETS = re.compile(r".*/(?:docker|containerd|podman|crio|libvirt-sock|system_bus_socket|private)(?:\.sock)?")
#: In a file that extends another a denial takes a grant's place, and the rules that are left do not show that grant.
_IDLE_DENIAL = "remove it, or keep it as a reminder; where it takes back what an extended policy grants, keep it"
#: Where clouds give a machine its credentials: most of them, Amazon by IPv6 and for tasks of ECS, Alibaba.
_METADATA = tuple(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "169.254.170.2", "100.100.100.200")))
_METADATA_NAMES = frozenset(("metadata.google.internal", "metadata.azure.internal", "instance-data"))
_METADATA_HINT = "leave it out: who reaches it may ask for this machine's credentials"
_LOOPBACK = ipaddress.ip_address("127.0.0.1")


def check(policy: PolicyModel, *, interpreter: InterpreterFiles | None = None) -> list[Finding]:
    """Return findings, the gravest first."""
    interpreter = site.interpreter_of(policy, interpreter)
    findings = [
        *_whole(policy),
        *_file_grants(policy, interpreter),
        *_idle_file_rules(policy),
        *_programs(policy),
        *_network(policy),
        *_imports(policy, interpreter),
    ]
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))


#: A cell that has run one request and holds nothing (bytes): with 2 MiB it is killed, with 4 it runs (Linux 6.18).
_LEAST_MEMORY = 4 << 20


def _danger(rule: str, message: str, hint: str = "") -> Finding:
    return Finding(severity=Severity.DANGER, rule=rule, message=message, hint=hint)


def _warning(rule: str, message: str, hint: str = "") -> Finding:
    return Finding(severity=Severity.WARNING, rule=rule, message=message, hint=hint)


def _note(rule: str, message: str, hint: str = "") -> Finding:
    return Finding(severity=Severity.NOTE, rule=rule, message=message, hint=hint)


def _whole(policy: PolicyModel) -> Iterator[Finding]:
    monitored = [group for group in MODE_GROUPS if dict(policy.modes).get(group, policy.mode) is Mode.MONITOR]
    if monitored:
        yield _warning(f"mode: monitor ({', '.join(monitored)})", "refuses nothing but the floor", "enforce it in use")
    for field in ("wall_s", "memory_bytes", "processes"):
        if getattr(policy.limits, field) is None:
            yield _note(f"limits: {field.rpartition('_')[0] or field}: null", "only the supervisor's own ceiling holds")
    memory = policy.limits.memory_bytes
    if memory is not None and memory < _LEAST_MEMORY:
        message = f"a sandbox that holds nothing yet needs {_LEAST_MEMORY >> 20} MiB"
        yield _warning(f"limits: memory: {memory}", message, "a number without a unit is bytes: write 64MiB")


# -- files ------------------------------------------------------------------------------------------------------------


def _file_grants(policy: PolicyModel, interpreter: InterpreterFiles) -> Iterator[Finding]:
    tables = right_tables(policy)
    for rule in policy.files:
        if rule.path.startswith("@"):
            continue
        if "read" in rule.allow:
            yield from _reading(rule, tables["read"])
        if {"write", "create"} & set(rule.allow):
            yield from _writing(rule, policy, interpreter)
        if "exec" in rule.allow:
            yield _warning(rule.text, "anything below can be run", "name the programs under `process`")
        if rule.allow and not os.path.lexists(rule.path):
            yield _note(rule.text, "the path does not exist", "create it before the sandbox starts")


def _reading(rule: FileRule, table: dict[str, bool]) -> Iterator[Finding]:
    if rule.path == "/":
        yield _danger(rule.text, "every file that is not denied can be read", "grant the directories that are needed")
    elif _HOMES.fullmatch(rule.path):
        yield _danger(rule.text, "a home holds keys and tokens", "grant the directory below it that is needed")
    exposed = [
        path
        for path in _CREDENTIALS
        if rule.path in at_and_above(path) and next(table[u] for u in at_and_above(path) if u in table)
    ]
    if exposed and rule.path != "/":
        yield _warning(rule.text, f"covers {', '.join(exposed)}", "deny them, or grant less")


def _writing(rule: FileRule, policy: PolicyModel, interpreter: InterpreterFiles) -> Iterator[Finding]:
    if rule.path == "/" or rule.path in _SYSTEM or _HOMES.fullmatch(rule.path):
        yield _danger(rule.text, "programs that others run can be replaced", "grant a directory made for output")
    code = (interpreter.stdlib, *interpreter.site_dirs)
    if any(rule.path in at_and_above(path) or path in at_and_above(rule.path) for path in code):
        yield _danger(rule.text, "the interpreter's own modules can be replaced", "grant a directory made for output")
    running = right_tables(policy)["exec"]
    natives = [r for r in policy.imports if r.kind == "native" and r.allow and (r.name == "*" or r.name[0] == "/")]
    if next((running[up] for up in at_and_above(rule.path) if up in running), False):
        yield _danger(rule.text, "what is written there can be run", "keep writable and executable paths apart")
    elif any(native.name == "*" or native.name in at_and_above(rule.path) for native in natives):
        yield _warning(rule.text, "native code that is written there can be loaded", "name the native modules")


def _idle_file_rules(policy: PolicyModel) -> Iterator[Finding]:
    """Find rules that change nothing: a denial of what is not granted, a grant of what is granted already."""
    tables = right_tables(policy)
    for rule in policy.files:
        for right in (*rule.allow, *rule.deny):
            above = next(
                (tables[right][up] for up in at_and_above(rule.path) if up != rule.path and up in tables[right]), False
            )
            if right in rule.deny and not above:
                yield _note(rule.text, f"denies {right}, which no rule grants there", _IDLE_DENIAL)
            elif right in rule.allow and above:
                yield _note(rule.text, f"grants {right}, which a rule above grants already", "remove it")


# -- programs ---------------------------------------------------------------------------------------------------------


def _programs(policy: PolicyModel) -> Iterator[Finding]:
    table = right_tables(policy)["exec"]
    for rule in policy.processes:
        if rule.operation != EXEC:
            continue
        above = next((table[up] for up in at_and_above(rule.path) if up != rule.path and up in table), False)
        if not rule.allow:
            if not above:
                yield _note(rule.text, "denies a program that no rule grants", _IDLE_DENIAL)
            continue
        if above:
            yield _note(rule.text, "a rule above grants it already", "remove it")
        yield from _program(rule, table)


def _program(rule: ProcessRule, table: dict[str, bool]) -> Iterator[Finding]:
    if rule.path == workspace.HOME:
        yield _warning(rule.text, "the guest runs what it writes, machine code too", "it stays inside the sandbox")
        return
    if os.path.isdir(rule.path):
        yield _warning(rule.text, "every program below can be run", "name the programs")
        return
    names = {os.path.basename(rule.path), os.path.basename(os.path.realpath(rule.path))}
    if any(_RUNS_ANYTHING.fullmatch(name) for name in names):
        yield _warning(rule.text, "it runs what it is given", "it stays inside the sandbox; count its children")
    if not os.path.exists(rule.path):
        yield _note(rule.text, "the program does not exist", "install it before the sandbox starts")
        return
    needed = _shebang(rule.path)
    if needed and not any(
        table.get(up, False) for path in (needed, os.path.realpath(needed)) for up in at_and_above(path)
    ):
        yield _warning(rule.text, f"is a script of {needed}, which is not granted", f"grant {{exec: {needed}}} as well")


def _shebang(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            line = file.readline(256)  # BINPRM_BUF_SIZE (include/uapi/linux/binfmts.h)
    except OSError:
        return None
    words = line[2:].split() if line.startswith(b"#!") else []
    return words[0].decode("utf-8", "replace") if words else None


# -- network ----------------------------------------------------------------------------------------------------------


def _network(policy: PolicyModel) -> Iterator[Finding]:
    nets = {action: Networks(policy.network, action) for action in ("connect", "bind")}
    for rule in policy.network:
        if rule.action == "http" or rule.target.startswith("*."):
            yield from _by_name(rule, policy)
            continue
        target = units.net_target(rule.target, action=rule.action)
        if not rule.allow:
            covered = any(other.allow and other.action == rule.action for other in policy.network)
            if not covered:
                yield _note(rule.text, f"denies a {rule.action} that no rule grants", _IDLE_DENIAL)
            continue
        if target.kind == "unix" and _ROOT_SOCKETS.fullmatch(target.host):
            yield _danger(rule.text, "a process that talks to this socket commands the machine", "do not grant it")
        if target.host in _METADATA_NAMES:
            yield _credentials(rule.text, target.host, _METADATA_HINT)
        if target.kind in ("any", "ip") and target.port_high - target.port_low > 1024:
            yield _warning(rule.text, "covers most ports", "name the ports")
        if rule.action == "connect" and target.kind in ("any", "ip"):
            yield from _reachable(rule.text, target, nets["connect"])
        if rule.action == "bind" and (target.kind == "any" or target.host in ("0.0.0.0", "::")):
            yield _warning(rule.text, "listens to every network", "bind to 127.0.0.1")


def _by_name(rule: NetworkRule, policy: PolicyModel) -> Iterator[Finding]:
    host = units.http_target(rule.target).host if rule.action == "http" else rule.target.rpartition(":")[0]
    if not rule.allow:
        named = [r for r in policy.network if r.allow and (r.action == "http" or r.target.startswith("*."))]
        if not named:
            yield _note(rule.text, "denies by name what no rule grants by name", _IDLE_DENIAL)
        return
    if host.startswith("*.") and host.count(".") == 1:
        yield _danger(rule.text, f"others, too, can have names that end with {host[1:]}", "name the hosts")
    if host in _METADATA_NAMES or host in map(str, _METADATA):
        yield _credentials(rule.text, host, _METADATA_HINT)
    if rule.action == "http" and rule.target.startswith("* "):
        yield _warning(rule.text, "covers every method", "name the methods")


def _credentials(text: str, where: str, hint: str) -> Finding:
    return _danger(text, f"reaches the cloud's metadata service ({where})", hint)


def _reachable(text: str, target: units.NetTarget, net: Networks) -> Iterator[Finding]:
    port = max(target.port_low, 1)
    wide = target.kind == "any" or target.prefix < (8 if ":" not in target.host else 16)
    covered = None if target.kind == "any" else ipaddress.ip_network(f"{target.host}/{target.prefix}")
    found = [one for one in _METADATA if (covered is None or one in covered) and net.allows(one, port)]
    if found:
        denials = " and ".join(f"[{one}]:*" if one.version == 6 else f"{one}:*" for one in found)
        yield _credentials(text, ", ".join(map(str, found)), f"deny {denials}" if wide else _METADATA_HINT)
    if wide and net.allows(_LOOPBACK, port):
        yield _warning(text, "reaches this machine's own services", "deny 127.0.0.0/8:* and [::1]:*")


# -- imports ----------------------------------------------------------------------------------------------------------


def _imports(policy: PolicyModel, interpreter: InterpreterFiles) -> Iterator[Finding]:
    for rule in policy.imports:
        if rule.name == "*" and rule.allow:
            native = rule.kind == "native"
            message = (
                "any file that can be read can be loaded as code" if native else "every installed module is readable"
            )
            yield _warning(rule.text, message, "name the modules")
        elif rule.name.startswith("/"):
            if rule.allow and not os.path.exists(rule.name):
                yield _note(rule.text, "the library does not exist", "install it before the sandbox starts")
        elif rule.allow and rule.name not in VARIABLES:
            top = rule.name.partition(".")[0]
            if top not in interpreter.stdlib_names and packages.locate(top, interpreter) is None:
                yield _note(
                    rule.text, f"{top} is not installed for {interpreter.executable}", "install it, or fix the name"
                )
        elif not rule.allow:
            others = {name: allow for name, allow in name_table(policy.imports, rule.kind).items() if name != rule.name}
            if not decided(others, rule.name):
                yield _note(rule.text, "denies a module that no rule grants", _IDLE_DENIAL)
