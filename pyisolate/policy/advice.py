"""What a host advises about a refusal: as `suggest`, and it looks at what is installed.

A package with native code, or whose requirements have some, is suggested by its top-level name under `native`: granted
without, it is refused again at its first extension module. Looked up by the names of distributions alone, once for each
module, because an index of them all (`packages.locate`) takes a second, and refusals are recorded here.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ..capability import Capability
from ..native import looks
from ..records import RefusedOperation
from . import packages, workspace
from .interpreter import InterpreterFiles
from .resolver import SHOWN_DEVICES
from .site import is_in_environment
from .suggest import crosses, suggestion

_IMPORTS = (Capability.IMPORT_MODULE, Capability.IMPORT_NATIVE)
_CHANGES = (Capability.FS_WRITE, Capability.FS_CREATE, Capability.FS_DELETE, Capability.FS_METADATA)
_WRITES = frozenset(("write", "create", "delete"))
_CONTENT = (Capability.FS_READ, Capability.FS_WRITE)
_SUFFIX = ".dist-info"
#: Files of one package that are looked at; a larger one counts as native.
_FILES = 5000
_REQUIRED = 200


class AdviceOfHost(msgspec.Struct, frozen=True):
    """`advice`, without the rules that this host's `spawn` would refuse. `uid` and `gid` are the guests' to the files.

    `unix_paths`: guests may be granted sockets by path.
    """

    uid: int
    gid: int
    unix_paths: bool

    def __call__(self, operation: RefusedOperation) -> dict[str, Any] | None:
        """Return what `advice` does, or None where `spawn` would refuse it here."""
        found = advice(operation)
        if found is None:
            return None
        places = [(rule["path"], rule["allow"]) for rule in found.get("fs", ())]
        places += [(rule["exec"], ("read", "exec")) for rule in found.get("process", ()) if "exec" in rule]
        if not all(self._may(path, rights) for path, rights in places):
            return None
        by_path = any(str(place).startswith("unix:") for rule in found.get("net", ()) for place in rule.values())
        return found if self.unix_paths or not by_path else None

    def _may(self, path: str, rights: Sequence[str]) -> bool:
        """Tell whether a file's own permissions let the guests do what a rule for it says; True where nothing tells."""
        try:
            with looks.opened(path, os.O_PATH, follow=True) as file:
                return self._may_with(f"/proc/self/fd/{file}", os.fstat(file), rights)
        except OSError:
            return True

    def _may_with(self, path: str, found: os.stat_result, rights: Sequence[str]) -> bool:
        directory = stat.S_ISDIR(found.st_mode)
        wanted = os.R_OK if "read" in rights else 0
        wanted |= os.W_OK if not _WRITES.isdisjoint(rights) else 0
        wanted |= os.X_OK if ("read" if directory else "exec") in rights else 0
        if self.uid == os.geteuid():
            return os.access(path, wanted)
        with contextlib.suppress(OSError):
            os.getxattr(path, "system.posix_acl_access")
            return True  # acl(5): more than the mode decides
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid == self.gid else 0
        return found.st_mode >> shift & wanted == wanted


def advice(operation: RefusedOperation) -> dict[str, Any] | None:
    """Return the smallest rules under which the operation passes, in one step, or None where none can be advised.

    Blocks for some milliseconds the first time that it is asked about an installed module.
    """
    capability, target = operation.capability, operation.target
    top = target.partition(".")[0]
    of_library = capability is Capability.IMPORT_NATIVE and (target.endswith(".so") or ".so." in target)
    if of_library or (operation.denied and capability is Capability.IMPORT_MODULE and top != target):
        return suggestion(operation)
    if capability in _IMPORTS and top and not top.isidentifier():
        top = _owner(top, InterpreterFiles.discover())
    if capability in _IMPORTS and top.isidentifier() and _brings_native(top, InterpreterFiles.discover()):
        return {"import": {"native": [top]}}
    if capability in _CHANGES and is_in_environment(target):
        return None  # a policy that grants it is refused
    if crosses(target, operation.also):
        return None
    if capability in _CONTENT and _is_other_device(target):
        return None
    if capability is Capability.PROCESS_EXEC and looks.is_directory(target):
        return None  # it cannot be run, and a rule for it would let all run that is in it
    if capability is Capability.FS_METADATA and operation.of_link and looks.is_link(target):
        return None  # a rule speaks of what a link leads to: the link itself is its directory's
    if capability is Capability.FS_CREATE and not operation.passed:
        if looks.is_directory(target) and (Capability.FS_WRITE, target) in operation.also:
            return None  # a file without a name (O_TMPFILE), or a mistake: no less than all of the directory would do
        if looks.is_directory(target):  # a guest that can find it does not make it
            return suggestion(RefusedOperation(Capability.FS_READ, target))
        return suggestion(_made(operation))
    return suggestion(operation)


def _is_other_device(path: str) -> bool:
    """Tell whether a path is a device that works in no sandbox, whatever a rule grants."""
    try:
        mode = looks.stat(path).st_mode
    except OSError:
        return False
    return (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and path not in SHOWN_DEVICES


def _made(operation: RefusedOperation) -> RefusedOperation:
    """Return what is to be granted where a guest was refused to make a name, of which it cannot see what is there.

    A file that exists is opened and not made: its own rights are enough, for a database too, which needs no journal for
    that. A name in a directory that does not exist either is made in the nearest one that does: a grant of what is
    absent is left out.
    """
    path, also = operation.target, operation.also
    opened = tuple([one for one in also if one[1] == path])
    if opened and looks.is_file(path):
        return RefusedOperation(*opened[0], opened[1:])
    made, directory = path, os.path.dirname(path)
    while directory != os.path.dirname(directory) and not looks.is_directory(directory):
        made, directory = directory, os.path.dirname(directory)
    if made == path or workspace.is_place(path):
        return operation
    wanted = tuple([(one, made if name == path else name) for one, name in also])
    return RefusedOperation(Capability.FS_CREATE, made, wanted)


@lru_cache(maxsize=64)
def _owner(name: str, interpreter: InterpreterFiles) -> str:
    """Return the package that a module of `packages.compiled_beside` belongs to; the name itself where it is none."""
    for site in interpreter.site_dirs:
        for where in _metadata(site, packages.stamp(site)).values():
            try:
                with open(os.path.join(where, "RECORD"), encoding="utf-8", errors="replace") as record:
                    owned = f"\n{name}." in f"\n{record.read()}"
            except OSError:
                continue
            if owned:
                found = packages.distribution_at(where)
                return min(packages.top_level(found) if name in packages.compiled_beside(found) else (), default=name)
    return name


@lru_cache(maxsize=512)
def _brings_native(name: str, interpreter: InterpreterFiles) -> bool:
    """Say whether an installed module has native code, or what its distribution requires, at all levels."""
    if name in interpreter.stdlib_names:
        return False
    if any(os.path.basename(path).startswith(f"{name}.") for path in interpreter.extension_files):
        return True  # of the interpreter's own tests
    seen: set[str] = set()
    queue = [name]
    while queue and len(seen) < _REQUIRED:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        if _has_native(current, interpreter):
            return True
        queue.extend(_required(current, interpreter))
    return False


def _has_native(name: str, interpreter: InterpreterFiles) -> bool:
    paths = next((found for site in interpreter.site_dirs if (found := _paths(name, site, interpreter))), [])
    left = _FILES
    for path in paths:
        if path.endswith(interpreter.native_suffixes):
            return True
        for _, _, files in os.walk(path):
            left -= len(files)
            if left < 0 or any(file.endswith(".so") or ".so." in file for file in files):
                return True
    return False


def _paths(name: str, site: str, interpreter: InterpreterFiles) -> list[str]:
    return list(packages.module_paths(name, site, interpreter))


def _required(name: str, interpreter: InterpreterFiles) -> Iterator[str]:
    """Yield the modules of what a module's distribution requires, where both are named like their distributions."""
    wanted = packages.canonical(name)
    for site in interpreter.site_dirs:
        if (found := _metadata(site, packages.stamp(site)).get(wanted)) is None:
            continue
        for requirement in packages.requirements(packages.distribution_at(found), interpreter.cache_tag):
            where = _metadata(site, packages.stamp(site)).get(requirement)
            yield from packages.top_level(packages.distribution_at(where)) if where else (requirement,)
        return


@lru_cache(maxsize=16)
def _metadata(site: str, _stamp: int) -> dict[str, str]:
    """Return the metadata directories of a site directory, by the name of their distribution."""
    try:
        names = os.listdir(site)
    except OSError:
        return {}
    return {
        packages.canonical(name.partition("-")[0]): os.path.join(site, name) for name in names if name.endswith(_SUFFIX)
    }
