"""A directory of the host's in a workspace, or copied into one: what may be, and what a report says of it.

The guest may write in it under a name in the workspace. So nothing may lie in it that the policy denies, or that the
host or later guests run; and it has to be of the user that guests write as: what they make there is that user's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..capability import Capability
from ..decision import Mode
from ..enforcement import Coverage, EnforcementReport
from ..errors import EnforcementError
from ..kernel.rootview.paths import WRITING, Places
from ..kernel.written import sums
from ..policy import workspace
from ..policy.site import cache_directory
from ..sandbox import commit_record

if TYPE_CHECKING:
    from ..choices import Enforcement
    from ..kernel.prepared import CellTraits
    from ..policy.compiled import CompiledPolicy

#: The workspace in which it is shown, where the policy has none: what programs keep for themselves.
STANDS_FOR = "64MiB"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


#: Limits that hold in memory alone.
_UNBOUNDED = (Capability.LIMIT_DISK, Capability.LIMIT_FILES)


class GivenDirectory(NamedTuple):
    """A directory by its name and by what it was when `spawn` was called."""

    path: str
    device: int
    inode: int

    @classmethod
    def find(cls, given: str | os.PathLike[str]) -> GivenDirectory:
        """Return the directory of a name; links above it are followed. Raises OSError, ValueError for a link."""
        above, last = os.path.split(os.path.abspath(os.fspath(given)))
        path = os.path.join(os.path.realpath(above), last)
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            raise ValueError(
                f"workspace: {path} is a symbolic link, which others may turn. Hint: give what it leads to, "
                f"{os.path.realpath(path)}"
            )
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "workspace: is no directory", path)
        return cls(path, found.st_dev, found.st_ino)

    def check(self, compiled: CompiledPolicy, traits: CellTraits, enforcement: Enforcement = "strict") -> None:
        """Raise EnforcementError where it cannot be the workspace of a guest of this policy."""
        if enforcement == "strict" and (named := sums(compiled.limits)):
            raise EnforcementError(
                f"workspace: {self.path}: {'; '.join(named)}: nothing counts what is written there",
                missing=named[0],
                hint="use copy_on_write=, or a workspace of memory; or enforcement='best_effort' to accept less",
            )
        if why := self._owned_by_others(traits) or next(self._holds(compiled, traits), None):
            text, hint = why
            raise EnforcementError(f"workspace: {self.path}: {text}", missing="workspace", hint=hint)

    def _owned_by_others(self, traits: CellTraits) -> tuple[str, str] | None:
        if traits.uid_range is not None:
            return (
                "each cell of this supervisor is another user (cell_uids), and a directory has one owner",
                "use a Supervisor without cell_uids, or copy_on_write=",
            )
        owner = os.lstat(self.path).st_uid
        if owner == traits.uid:
            return None
        return (
            f"its owner is user {owner}, and guests write as user {traits.uid}",
            f"give a directory of user {traits.uid} (`install -d -o {traits.uid} DIR`), or use copy_on_write=",
        )

    def _holds(self, compiled: CompiledPolicy, traits: CellTraits) -> Iterator[tuple[str, str]]:
        """Yield what is in it that a guest may not change."""
        narrower = "give a directory that holds none of it, or use copy_on_write="
        for path in _run_by_host(traits):
            if workspace.same_line(path, self.path):
                yield f"what this process and its guests run is there ({path})", narrower
        for kept, what in _kept_for_host():
            if workspace.same_line(str(kept), self.path):
                yield f"{what} ({kept})", narrower
        for path in filter(os.path.isabs, map(os.path.realpath, sys.path)):
            if _is_in(path, self.path):
                yield f"this process imports modules from {path} (sys.path)", narrower
        places = Places.of(compiled)  # in monitor mode too: a reload may enforce them
        rules = [(place.path, rule) for place in places for rule in place.rules]
        for path, rule in (*rules, *((os.path.realpath(rule.path), rule) for rule, _why in places.missing)):
            if _is_in(path, self.path) and (rule.deny or rule.origin != "fs"):
                yield f"the policy has a rule for {path}, which is there ({rule.text or rule.origin})", narrower

    def reported(self, report: EnforcementReport) -> EnforcementReport:
        """Return a sandbox's report that says what is true of this workspace."""
        unbounded = "a directory of the host's: nothing bounds how much is written there, in bytes or names"
        nowhere: dict[str, Any] = {"coverage": Coverage.NONE, "enforcers": (), "missing": unbounded, "telemetry": ""}
        partly = {"coverage": Coverage.PARTIAL, "missing": unbounded}
        changed = {**dict.fromkeys(_UNBOUNDED, nowhere), Capability.LIMIT_WORKSPACE: partly}
        lines = tuple(msgspec.structs.replace(line, **changed.get(line.capability, {})) for line in report.capabilities)
        note = (
            f"workspace: {self.path} of the host's at {workspace.PROJECT}; it stays, and nothing bounds the sum of its "
            "files"
        )
        return msgspec.structs.replace(report, capabilities=lines, notes=(*report.notes, note))


def check_copied(source: str | os.PathLike[str], compiled: CompiledPolicy) -> None:
    """Raise EnforcementError where a guest may write to the directory itself of which it has a copy."""
    path = os.path.realpath(os.fspath(source))
    if compiled.mode_of("fs") is not Mode.ENFORCE:
        return
    for place in Places.of(compiled):
        writes = place.in_force & WRITING and place.rules
        if writes and any(rule.origin == "fs" for rule in place.rules) and workspace.same_line(place.path, path):
            raise EnforcementError(
                f"copy_on_write: {path}: the policy lets the guest write to the directory itself ({place.text})",
                rule=place.text,
                missing="workspace",
                hint="leave that grant out: the guest has a copy, and files.commit writes it back",
            )


def _run_by_host(traits: CellTraits) -> Iterator[str]:
    """Yield the places of programs and modules that this process, its zygotes and later guests run."""
    named = sysconfig.get_paths()
    yield _PACKAGE
    for path in (
        *traits.interpreter,
        *(named[key] for key in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
    ):
        yield os.path.realpath(path)


def _kept_for_host() -> Iterator[tuple[Path, str]]:
    """Yield places of this user's that hosts believe."""
    with contextlib.suppress(RuntimeError):  # there is no home
        yield cache_directory(), "packages that guests import are kept there"
    with contextlib.suppress(RuntimeError):
        yield commit_record.place(), "by what is noted there commits are finished"


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
