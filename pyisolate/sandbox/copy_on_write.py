"""A workspace that begins as a copy of a host's directory: what a guest changed in it, and back to the host with it.

The copy is the guest's and hostile, the directory is the host's. In both, names are opened beneath, by descriptors, and
no link is followed. What a commit writes is in `commit`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..errors import SandboxError
from ..native.file_lock import lock_within
from . import commit_record
from .beneath import (
    DIRECTORY,
    Budget,
    Kind,
    Target,
    content,
    look,
    make_directories,
    open_beneath,
    open_file,
    remove,
    size_of,
    walk,
)
from .commit import STAGING, FileChange, Mark, finish, mark_of, new_digest, write

#: Other users' commits are waited for so long (seconds), and guests that hold the lock.
_LOCKED_WITHIN_S = 1.0


class _Known(NamedTuple):
    """One name of the directory, as it was copied or committed last."""

    kind: Literal["file", "directory", "link"]
    size: int
    #: of the content; a link's own text
    digest: bytes
    #: on the host; in the workspace nothing tells: what a guest writes into memory that it mapped changes no time
    there: Mark


class CopyOnWrite:
    """One host directory and its copy in one workspace. Thread-safe; `close` lets the directory go."""

    def __init__(self, source: str) -> None:
        self.source = os.path.abspath(source)
        self._host = os.open(self.source, DIRECTORY | os.O_CLOEXEC)
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def fill(self, top: int) -> None:
        """Copy the directory into an empty workspace. Raises OSError, SandboxError for what does not fit."""
        with self._alone():
            try:
                self._known = dict(_copied(self._host, top))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise SandboxError(
                    f"copy_on_write: {self.source} does not fit into the workspace",
                    hint="pass a larger one, such as workspace='1GiB', or a narrower directory",
                ) from error

    def diff(self, top: int) -> list[FileChange]:
        """Return what differs from the directory as it was copied, sorted by path."""
        with self._lock:
            return self._compare(top)

    def commit(self, top: int) -> list[FileChange]:
        """Write all changes to the directory, or none. Returns them. Raises SandboxError, OSError."""
        with self._alone():
            changes = self._compare(top)
            self._check(changes)
            if changes:
                known = {path: one.there for path, one in self._known.items()}
                written = write(self._host, top, changes, known, Budget(size_of(top)))
                self._take(changes, written)
            return changes

    def discard(self, top: int) -> None:
        """Empty the copy, and copy the directory of now into it. Raises OSError, SandboxError."""
        if os.fstat(top).st_nlink == 0:
            raise SandboxError(
                f"copy of {self.source}: the guest took the directory of its copy away",
                hint="spawn another sandbox: there is no place left for a copy in this one",
            )
        for entry in list(walk(top, ".", recursive=False)):
            with contextlib.suppress(FileNotFoundError):
                remove(top, entry.path)
        self.fill(top)

    def close(self) -> None:
        """Close the directory. Idempotent."""
        host, self._host = self._host, -1
        if host >= 0:
            os.close(host)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the directory against other commits, here and in other processes; finish what one of them left."""
        with self._lock, commit_record.lock(self._host):
            if not lock_within(self._host, _LOCKED_WITHIN_S):
                raise SandboxError(
                    f"copy of {self.source}: another process holds the directory's lock (flock)",
                    hint="another user's commit, or a guest that is granted reading it: leave that grant out",
                )
            try:
                finish(self._host)
                yield
            finally:
                fcntl.flock(self._host, fcntl.LOCK_UN)

    # -- comparing ------------------------------------------------------------------------------------------------

    def _compare(self, top: int) -> list[FileChange]:
        found, changes = set(), []
        for entry in walk(top, ".", recursive=True):
            known = self._known.get(entry.path)
            now = "link" if known is not None and _is_link(top, entry.path, known) else entry.kind
            if known is not None and known.kind == now:
                found.add(entry.path)
                if now == "file" and self._differs(top, entry.path, known):
                    changes.append(FileChange(entry.path, "M", "file", entry.size, known.size))
                continue
            takes = entry.path.isprintable() and not entry.path.startswith(STAGING)
            path = entry.path if entry.path.isprintable() else entry.path.encode("unicode_escape").decode("ascii")
            changes.append(FileChange(path, "A", entry.kind if takes else "other", entry.size, 0))
        for path, known in self._known.items():
            if path not in found:
                kind: Kind = "file" if known.kind == "link" else known.kind
                changes.append(FileChange(path, "D", kind, 0, known.size))
        return sorted(changes)

    @staticmethod
    def _differs(top: int, path: str, known: _Known) -> bool:
        try:
            return look(top, path).st_size != known.size or _digest(top, path, known.size) != known.digest
        except (OSError, SandboxError):
            return True  # the guest took it away, or adds to it, at this moment

    # -- committing -----------------------------------------------------------------------------------------------

    def _check(self, changes: list[FileChange]) -> None:
        """Refuse what no commit takes, and what the host has changed itself. Nothing was written by then."""
        if odd := [change.path for change in changes if change.kind == "other"]:
            raise SandboxError(
                f"files.commit: {', '.join(odd[:5])}: neither file nor directory, or a name that is not taken "
                f"({len(odd)} in all)",
                hint="let the guest remove them, or files.remove; links that were copied stay as they are",
            )
        gone = {change.path for change in changes if change.change == "D"}
        made = {change.path for change in changes if change.change == "A" and change.kind == "directory"}
        if met := [change.path for change in changes if self._met(change, gone, made)]:
            raise SandboxError(
                f"files.commit: {', '.join(met[:5])}: changed in {self.source} since it was copied ({len(met)} in all)",
                hint="take what is wanted with files.get, or start anew with files.discard",
            )

    def _met(self, change: FileChange, gone: set[str], made: set[str]) -> bool:
        """Say whether the host has something else under a name than what was copied."""
        above, known = change.path.rpartition("/")[0] or ".", self._known.get(change.path)
        try:
            if known is None:
                if above in made:
                    return False  # what is there instead is another change, or met
                os.close(open_beneath(self._host, above, DIRECTORY))
            there = look(self._host, change.path)
        except FileNotFoundError as error:
            return known is not None or error.filename == above
        except OSError:
            return True
        if known is None:
            return True
        if known.kind != "directory":
            return mark_of(there) != known.there
        if change.change == "D" and stat.S_ISDIR(there.st_mode):
            inside = open_beneath(self._host, change.path, DIRECTORY)
            try:
                return any(f"{change.path}/{name}" not in gone for name in os.listdir(inside))
            finally:
                os.close(inside)
        return not stat.S_ISDIR(there.st_mode)

    def _take(self, changes: list[FileChange], written: dict[str, bytes]) -> None:
        """From now on compare with what was committed."""
        for change in changes:
            if change.change == "D":
                self._known.pop(change.path, None)
        for change in changes:
            if change.change == "D":
                continue
            there = mark_of(look(self._host, change.path))
            if change.kind == "directory":
                self._known[change.path] = _Known("directory", 0, b"", there)
            else:
                self._known[change.path] = _Known("file", there[1], written[change.path], there)


def _copied(host: int, top: int) -> Iterator[tuple[str, _Known]]:
    """Copy a directory; yield each name with what it was. FIFOs, sockets, devices and unprintable names stay away."""
    for entry in walk(host, ".", recursive=True):
        path = entry.path
        if not path.isprintable() or path.startswith(STAGING):
            continue
        if entry.kind == "directory":
            os.close(open_beneath(host, path, DIRECTORY))  # what cannot be searched is an error, not an empty directory
            make_directories(top, path)
            yield path, _Known("directory", 0, b"", mark_of(look(host, path)))
        elif entry.kind == "file":
            yield path, _copy_file(host, top, path)
        elif stat.S_ISLNK((there := look(host, path)).st_mode):
            text = _link(host, path)
            above, _, last = path.rpartition("/")
            directory = open_beneath(top, above or ".", DIRECTORY)
            try:
                os.symlink(text, last, dir_fd=directory)
            finally:
                os.close(directory)
            yield path, _Known("link", 0, os.fsencode(text), mark_of(there))


def _copy_file(host: int, top: int, path: str) -> _Known:
    digest, size = new_digest(), 0
    source = open_file(host, path)
    try:
        there = os.fstat(source)
        with Target(top, path) as target:
            for data in content(source, size_of(top), path):
                digest.update(data)
                size += len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(target.descriptor, view) :]
            target.keep()
    finally:
        os.close(source)
    return _Known("file", size, digest.digest(), mark_of(there))


def _digest(top: int, path: str, most: int) -> bytes:
    digest = new_digest()
    descriptor = open_file(top, path)
    try:
        for data in content(descriptor, most, path):
            digest.update(data)
    finally:
        os.close(descriptor)
    return digest.digest()


def _link(top: int, path: str) -> str:
    descriptor = open_beneath(top, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.readlink("", dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _is_link(top: int, path: str, known: _Known) -> bool:
    """Say whether a name is the link that was copied."""
    if known.kind != "link":
        return False
    try:
        return os.fsencode(_link(top, path)) == known.digest
    except OSError:
        return False
