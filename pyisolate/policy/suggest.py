"""A refused operation -> the smallest rule that would allow it, as a piece of a policy file."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..capability import CATALOGUE, FLOOR, Capability
from ..errors import PolicySyntaxError
from ..records import RefusedOperation, Wanted
from . import units, web, workspace
from .reader import Reader
from .rules import EXEC, FILE_RIGHTS, FORK, FileRule, ImportRule, NetworkRule, ProcessRule
from .sections import SECTIONS, section_that_grants

if TYPE_CHECKING:
    from .model import PolicyModel

_P = TypeVar("_P", bound="PolicyModel")
_R = TypeVar("_R", NetworkRule, ProcessRule, ImportRule)


#: Names are made and removed in a directory: that is where kernels grant it.
_NAMES = (Capability.FS_CREATE, Capability.FS_DELETE)
#: Of a file itself, each asked for alone.
_FILES = frozenset(one for one in Capability if one.family == "fs" and one not in _NAMES)
#: Directories of all, or of the system: no event suggests to make names in them.
_SHARED = frozenset(
    ("/", "/bin", "/boot", "/dev", "/dev/shm", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin",
     "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/var", "/var/tmp")
)  # fmt: skip
_HOME = re.compile(r"/home/[^/]+")
#: What the loader opens (ld.so(8)): `NAME.so`, with the numbers of its version where it is not a module.
_SHARED_LIBRARY = re.compile(r"\.so(?:\.[0-9]+)*\Z")
#: Where pseudo-terminals come from, of which no sandbox has one.
TERMINALS = "/dev/ptmx"
_TASK = re.compile(r"/proc/(?:self|thread-self|[0-9]+)(?:/|\Z)")


def exact(capability: Capability, target: str) -> dict[str, Any] | None:
    """Return the rule that speaks of nothing but the operation, or None where no rule can.

    No rule can for the floor, for limits and control, and for targets that a policy text cannot name.
    """
    try:
        return _suggest(Capability(capability), target)
    except (PolicySyntaxError, ValueError):
        return None  # what cannot be written in a policy file cannot be suggested either


def suggestion(operation: RefusedOperation) -> dict[str, Any] | None:
    """Return the smallest rules under which the operation passes, in one step, or None where none can be advised.

    Making and removing a name is granted by its directory, but never by one that is everybody's; no rule speaks of a
    task in /proc, nor of the workspace's place; and none lets a file go to another directory.
    """
    capability, target, also = Capability(operation.capability), operation.target, operation.also
    if operation.by_native and capability is Capability.FS_READ and _SHARED_LIBRARY.search(target):
        return exact(Capability.IMPORT_NATIVE, target)  # the loader reads it, to map it as code
    if (
        (Capability.FS_WRITE, TERMINALS) in also
        or crosses(target, also)
        or (capability is Capability.IMPORT_NATIVE and (target in _SHARED or target == "/dev/zero"))
    ):
        return None
    if capability is Capability.MEMORY_EXEC and target.startswith("mmap(") and "anonymous" not in target:
        return None  # a file's: the mount that it lies on decides too, and what may be written runs from none
    if not also and capability in _FILES:
        return None if is_task(target) or workspace.is_place(target) else exact(capability, target)
    wanted = [(capability, target), *also]
    made = {path for one, path in wanted if one is Capability.FS_CREATE}
    rules: dict[str, list[Any]] = {}
    for one, path in wanted:
        if one.family != "fs":
            return exact(capability, target)
        directory = path.rstrip("/").rpartition("/")[0] or "/"
        in_directory = one in _NAMES or path in made
        everybodys = in_directory and (directory in _SHARED or _HOME.fullmatch(directory))
        if everybodys or is_task(path) or workspace.is_place(path):
            return None
        found = exact(one, directory if in_directory else path)
        if found is None:
            return None
        rules.setdefault(found["fs"][0]["path"], []).append(found["fs"][0])
    return {"fs": [same[0] | {"allow": _rights(same)} for same in rules.values()]}


def suggestion_unseen(operation: RefusedOperation) -> dict[str, Any] | None:
    """Return the same as a guest can know it, which does not see what is installed.

    A package that it was refused is suggested as one with native code: that is one step for any package, and for one
    that has none, nor requires any, it grants nothing beside.
    """
    top = operation.target.partition(".")[0]
    inside = operation.denied and top != operation.target  # a rule speaks of a module in a package
    if (
        operation.capability is Capability.IMPORT_MODULE
        and not inside
        and top.isidentifier()
        and top not in sys.stdlib_module_names
    ):
        return exact(Capability.IMPORT_NATIVE, top)
    return suggestion(operation)


def crosses(target: str, also: Sequence[Wanted]) -> bool:
    """Tell whether a call moves or links between directories, which grants of both do not allow.

    Each granted place is a mount of its own, and Landlock lets no file go where more is granted (EXDEV).
    """
    return len({path.rstrip("/").rpartition("/")[0] for path in (target, *[path for _, path in also])}) > 1


def is_task(path: str) -> bool:
    """Tell whether a path is one of a process in /proc: the same name is another process's for everybody."""
    return _TASK.match(path) is not None


def _rights(rules: list[dict[str, Any]]) -> list[str]:
    named = {right for rule in rules for right in rule["allow"]}
    return [right for right in FILE_RIGHTS if right in named]


def _suggest(capability: Capability, target: str) -> dict[str, Any] | None:
    if capability in FLOOR:
        return None
    if capability is Capability.FS_LOOKUP:
        capability = Capability.FS_READ  # what may be read can be found, and most is looked at to be read
    entry = CATALOGUE[capability]
    if capability.family == "fs" and entry.right is not None:
        right = (entry.right.name or "").lower()
        # a mount that nothing may be written to changes no metadata either
        rights = ("write", right) if capability is Capability.FS_METADATA else (right,)
        rule = FileRule(path=units.path(target, variables=False, literal=True), allow=rights)
        return {"fs": [rule.fragment()]}
    if entry.action is not None:
        action = entry.action.name.lower()
        if capability is Capability.IPC_UNIX and not target.startswith("unix:"):
            target = f"unix:{target}"
        if workspace.is_place(target.removeprefix("unix:")):
            return None  # sockets there are the guest's processes' own, and come with the right to make processes
        place = _plain(target, leads_there=action == "connect")
        # [::] takes the IPv4 addresses with it, and is refused where they are not granted
        places = (place, f"0.0.0.0{place[4:]}") if action == "bind" and place.startswith("[::]:") else (place,)
        return {"net": [{action: str(units.net_target(one, action=action))} for one in places]}
    if capability is Capability.NET_HTTP:
        return {"net": [web.http_target_of(target)]}
    own = target.startswith(f"{workspace.HOME}/")  # a guest gives its files any name
    if capability is Capability.PROCESS_EXEC or (capability is Capability.IMPORT_NATIVE and own):
        path = workspace.HOME if own else target
        program = ProcessRule(operation=EXEC, path=units.path(path, variables=False, literal=True))
        return {"process": [program.fragment()]}
    if capability is Capability.PROCESS_FORK:
        return {"process": [{FORK: True}]}
    if capability is Capability.IMPORT_MODULE:
        return {"import": {"allow": [units.module_name(target)]}}
    if capability is Capability.IMPORT_NATIVE:
        if _SHARED_LIBRARY.search(target) and not target.startswith("/"):
            return None  # which file the loader would find for a bare library name is not known here
        return {"import": {"native": [units.module_name(target, native=True)]}}
    return section_that_grants(capability)


def _plain(target: str, *, leads_there: bool) -> str:
    """Drop the zone of a link-local address and the IPv6 clothes of an IPv4 one: rules know neither.

    `leads_there`: it is a destination, and "any" address as one is loopback.
    """
    host, colon, port = target.rpartition(":")
    if "%" in host:
        host = host.partition("%")[0] + "]"
    if host.lower().startswith("[::ffff:") and "." in host:
        host = host[8:-1]
    if leads_there:
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{host}{colon}{port}"


def apply(policy: _P, suggested: dict[str, Any]) -> _P:
    """Return `policy` with the suggested rules added; a deny of exactly the same thing gives way.

    Where the policy denies a whole directory or range, the suggestion is the more specific rule, and wins as such.
    """
    from .model import PolicyModel  # with all that reads policy files: a zygote, which suggests, does without

    added = PolicyModel.from_data(suggested)
    changed = msgspec.structs.replace(
        policy,
        files=_files(policy.files, added.files, _programs(added)),
        network=_others(policy.network, added.network),
        processes=_others(policy.processes, added.processes, {(False, path) for path in _programs(added)}),
        imports=_others(policy.imports, added.imports, _importable(added)),
    )
    if any(rule.tls for rule in added.network):  # which no proxy could enforce without
        changed = msgspec.structs.replace(changed, inspect_tls=True)
    for section in SECTIONS:
        if section.key in suggested:
            values = section.values(Reader(None, {}), suggested[section.key], changed)
            changed = msgspec.structs.replace(changed, **values)
    return changed


def _programs(added: PolicyModel) -> set[str]:
    """Return the programs that are to run: `fs` and `process` both speak of them."""
    named = {rule.path for rule in added.processes if rule.operation == EXEC and rule.allow}
    return named | {rule.path for rule in added.files if "exec" in rule.allow}


def _importable(added: PolicyModel) -> set[tuple[Any, ...]]:
    """Return, as keys, the modules whose native code is granted: a grant of it is one of the module."""
    return {msgspec.structs.replace(rule, kind="module").sort_key for rule in added.imports if rule.kind == "native"}


def _files(old: tuple[FileRule, ...], new: tuple[FileRule, ...], programs: set[str]) -> tuple[FileRule, ...]:
    granted: dict[str, tuple[str, ...]] = {rule.path: rule.allow for rule in new}
    for path in programs:
        granted[path] = (*granted.get(path, ()), "exec")
    kept = [
        msgspec.structs.replace(rule, deny=tuple(r for r in rule.deny if r not in granted.get(rule.path, ())))
        for rule in old
    ]
    return (*kept, *new)


def _others(old: tuple[_R, ...], new: tuple[_R, ...], more: Set[tuple[Any, ...]] = frozenset()) -> tuple[_R, ...]:
    granted = {rule.sort_key for rule in new if rule.allow} | more
    return tuple([rule for rule in old if rule.allow or rule.sort_key not in granted]) + new
