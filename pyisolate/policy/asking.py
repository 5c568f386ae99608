"""What the host is asked about: whatever no rule speaks of in a capability, or that part of it which `ask` states.

An entry of `ask` is a capability, or a rule: `{connect: ...}`, `{http: ...}`, `{read: /directory}` (or write,
create, delete, metadata), `{exec: /program}`.
A capability beside rules of its own is asked about whole. Programs are asked about by rule alone: each has its gate in
the root view when its sandbox starts (`kernel/rootview/gates.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..capability import Capability
from ..decision import Mode
from ..errors import PolicySyntaxError
from ..records import LINKING, RENAMING
from . import addresses, fragments, units, web
from .compiled import CompiledPolicy, NetRule

#: What can wait for an answer: calls that the supervisor carries out, on its own copy of what was asked about.
ASKABLE = ("fs.create", "fs.delete", "fs.metadata", "fs.read", "fs.write", "net.connect", "net.http")
#: What is asked about of files: how they are opened, which names are made and removed, and how they are changed.
FILES = {
    "create": Capability.FS_CREATE,
    "delete": Capability.FS_DELETE,
    "metadata": Capability.FS_METADATA,
    "read": Capability.FS_READ,
    "write": Capability.FS_WRITE,
}
OF_FILES = frozenset(FILES.values())
#: The calls that make, remove or move names, each with what it needs.
NAMING = {
    **dict.fromkeys(("mkdir", "mkdirat", "symlink", "symlinkat"), frozenset((Capability.FS_CREATE,))),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), frozenset((Capability.FS_DELETE,))),
    **dict.fromkeys(RENAMING, frozenset((Capability.FS_CREATE, Capability.FS_DELETE))),
    **dict.fromkeys(LINKING, frozenset((Capability.FS_CREATE, Capability.FS_READ))),
}
#: The calls that change mode, times, owner or attributes of what a name leads to, with what they do. Those on an open
#: file are not asked about.
CHANGING = {
    **dict.fromkeys(("chmod", "fchmodat", "fchmodat2"), "chmod"),
    **dict.fromkeys(("chown", "lchown", "fchownat"), "chown"),
    **dict.fromkeys(("utime", "utimes", "utimensat", "futimesat"), "utime"),
    **dict.fromkeys(("setxattr", "lsetxattr"), "setxattr"),
    **dict.fromkeys(("removexattr", "lremovexattr"), "removexattr"),
}
#: The calls that a yes has the supervisor make.
CARRIED = frozenset(NAMING) | frozenset(CHANGING)
#: One question stands for both: whether a file is there is for the host to see.
WRITES = frozenset((Capability.FS_CREATE, Capability.FS_WRITE))
RULES = ("connect", "http", *FILES, "exec")
HINT = (
    f"use {', '.join(ASKABLE)}, or a rule: {{connect: host:port}}, {{http: GET host/path}}, {{read: /directory}}, "
    "{write: /directory}, {create: /directory}, {delete: /directory}, {metadata: /directory}, {exec: /program}"
)
#: Programs that one policy asks about.
MOST_PROGRAMS = 64
SCHEMA = {
    "anyOf": [
        {"enum": list(ASKABLE)},
        *(fragments.mapping((key,), {key: fragments.TEXT}, required=[key]) for key in RULES),
    ]
}
_ADDRESSES = ("any", "ip")


def read_ask(entries: Iterable[Any]) -> tuple[str, ...]:
    """Return what the host may be asked about, in order: capabilities, and rules as text. Raises PolicySyntaxError.

    That text, which a policy holds and `entries_of` undoes, is no entry: a file states a rule as a mapping.
    """
    found = set()
    for entry in entries:
        key, target = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else ("", "")
        if isinstance(entry, str) and entry in ASKABLE:
            found.add(entry)
        elif key in RULES:
            found.add(f"{key} {_canonical(key, target)}")
        else:
            raise PolicySyntaxError(f"ask: {str(entry)[:60]!r} cannot be asked about", hint=HINT)
    if sum(entry.startswith("exec ") for entry in found) > MOST_PROGRAMS:
        raise PolicySyntaxError(f"ask: more than {MOST_PROGRAMS} programs", hint="grant those that need no question")
    return tuple(sorted(found))


def _canonical(key: str, target: object) -> str:
    if key in FILES or key == "exec":
        return units.path(target, variables=False)
    if key == "http":
        asked = units.http_target(target)
        if asked.tls:
            hint = 'a tunnel is asked about before the proxy reads it: {connect: "host:443"}'
            raise PolicySyntaxError(f"ask: http {str(asked)[:60]!r}: inside of TLS", hint=hint)
        return str(asked)
    place = units.net_target(target, action="connect")
    if place.kind not in (*_ADDRESSES, "host", "names"):
        raise PolicySyntaxError(f"ask: connect {str(place)[:60]!r} cannot be asked about", hint=HINT)
    return str(place)


def entries_of(ask: Iterable[str]) -> list[str | dict[str, str]]:
    """Return them as a policy file has them."""
    split = ((entry, *entry.partition(" ")) for entry in ask)
    return [{key: target} if target else entry for entry, key, _, target in split]


def leads_to_proxy(entry: str) -> bool:
    """Tell whether an entry is a rule that the egress proxy asks about: of requests, or of a host by its name."""
    key, _, target = entry.partition(" ")
    return key == "http" or (key == "connect" and units.net_target(target, action="connect").kind not in _ADDRESSES)


def capability_of(entry: str) -> Capability:
    """Return the capability whose operations an entry is about."""
    key, _, target = entry.partition(" ")
    if not target:
        return Capability(key)
    if key == "exec":
        return Capability.PROCESS_EXEC
    if key in FILES:
        return FILES[key]
    return Capability.NET_HTTP if leads_to_proxy(entry) else Capability.NET_CONNECT


def asks_about(policy: CompiledPolicy, capability: Capability, target: str) -> bool:
    """Tell whether the host is asked about an operation, should no rule speak of it."""
    if capability not in policy.ask:
        return False
    rules = policy.ask_rules
    if capability in (files := rules.files):
        return not files[capability] or any(f"{target}/".startswith(f"{one.rstrip('/')}/") for one in files[capability])
    if capability is Capability.PROCESS_EXEC:
        return target in rules.programs
    if capability is Capability.NET_HTTP:
        request = web.parse(target)
        return not rules.web or (request is not None and any(web.matches(rule, request) for rule in rules.web))
    return not rules.connect or any(_covers(rule, target) for rule in rules.connect)


def asks_about_programs(policy: CompiledPolicy) -> bool:
    """Tell whether programs have gates: none has where what refuses them only watches."""
    enforced = Mode.MONITOR not in (policy.mode_of("process"), policy.mode_of("fs"))
    return enforced and Capability.PROCESS_EXEC in policy.ask


def _covers(rule: NetRule, target: str) -> bool:
    found = addresses.endpoint(target)
    if found is None:
        return False
    address, port = addresses.destination(found[0]), found[1]
    return addresses.has_address(rule, len(address), int.from_bytes(address)) and addresses.has_port(rule, port)
