"""A sandbox's own files, from the host: what the guest finds in its workspace, and what it leaves there.

All in the workspace is the guest's doing: hostile. Each name is opened beneath the workspace's own directory, no link
is followed (openat2(2), 5.6); only regular files and directories are touched; sizes, depth and numbers are bounded.
The guest may run and change everything at the same time: checked is the opened file, not the name. A tmpfs answers from
memory, so no call here waits for a guest.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..errors import SandboxError
from ..policy import workspace
from .beneath import (
    CHUNK_BYTES,
    DEEPEST,
    Budget,
    FileEntry,
    Target,
    content,
    look,
    make_directories,
    open_file,
    remove,
    size_of,
    walk,
)
from .commit import FileChange
from .copy_on_write import CopyOnWrite

if TYPE_CHECKING:
    from .workspace import Workspace

_PathLike = str | os.PathLike[str]
#: What `read` returns at most, by default (bytes).
READ_BYTES = 64 << 20


class Fetched(NamedTuple):
    """What `get` brought: host paths of the files, and the names that it left out (links, FIFOs, hostile names)."""

    files: tuple[str, ...]
    left_out: tuple[str, ...]


class SandboxFiles:
    """The workspace of one sandbox: `sandbox.files`. Safe from any thread, and while the guest runs.

    Paths are relative to where the guest starts (the workspace; where a directory of the host's or a copy of one is in
    it, that), or as the guest writes them (`/tmp/a`, `/sandbox/workspace/a`). ValueError for one that leads elsewhere,
    OSError where the file system says no (FileNotFoundError, ENOSPC ...), SandboxError without a workspace,
    SandboxClosed after `close`. What a guest left can be read after a limit has ended it.
    """

    def __init__(self, own: Workspace | None, name: str) -> None:
        self._own, self._name = own, name

    def write(self, path: _PathLike, data: bytes | str) -> None:
        """Write a file whole, directories above it included: the guest sees the old file or the new one."""
        if isinstance(data, str):
            data = data.encode("utf-8")
        elif not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"files.write: data: must be bytes or text, not {type(data).__name__}")
        with self._place(path) as (top, name), Target(top, name) as target:
            view = memoryview(data).cast("B")
            while view:
                view = view[os.write(target.descriptor, view) :]
            target.keep()

    def read(self, path: _PathLike, *, max_bytes: int = READ_BYTES) -> bytes:
        """Return a file's bytes. Raises SandboxError where they are more than `max_bytes` (default 64 MiB)."""
        with self._place(path) as (top, name):
            descriptor = open_file(top, name)
            try:
                return b"".join(content(descriptor, max_bytes, os.fspath(path)))
            finally:
                os.close(descriptor)

    def read_text(self, path: _PathLike, *, encoding: str = "utf-8", max_bytes: int = READ_BYTES) -> str:
        """Return a file's text. Raises UnicodeDecodeError, and what `read` raises."""
        return self.read(path, max_bytes=max_bytes).decode(encoding)

    def list(self, path: _PathLike = ".", *, recursive: bool = False) -> list[FileEntry]:
        """Return what is in a directory, sorted by path. Names that are no printable text are left out."""
        found: list[FileEntry] = []
        with self._place(path) as (top, start):
            for entry in walk(top, start, recursive=recursive):
                if entry.path.isprintable():
                    found.append(entry)
        return sorted(found)

    def put(self, source: _PathLike, path: _PathLike | None = None) -> None:
        """Copy a file or a directory of the host's into the workspace, by default under its own name.

        Symbolic links of the host's are followed, as its own. What is there under these names is replaced.
        """
        source = os.fspath(source)
        with self._place(os.path.basename(os.path.abspath(source)) if path is None else path) as (top, name):
            if not os.path.isdir(source):
                _put_file(top, source, name)
                return
            make_directories(top, name)
            for at, directories, files in os.walk(source, followlinks=True, onerror=_raise):
                below = os.path.normpath(os.path.join(name, os.path.relpath(at, source)))
                if below.count("/") > DEEPEST:
                    raise OSError(errno.ELOOP, "put: too deep", at)
                for directory in directories:
                    make_directories(top, os.path.join(below, directory))
                for file in files:
                    _put_file(top, os.path.join(at, file), os.path.join(below, file))

    def get(self, path: _PathLike, destination: _PathLike, *, max_bytes: int | None = None) -> Fetched:
        """Copy a file to the host's `destination`, or what is in a directory into it; directories are made.

        `max_bytes` (default: what the workspace holds, 64 MiB of a directory of the host's) bounds all files together:
        a guest's file may have holes, and claim a size that no disk has. Raises SandboxError past that; what was copied
        until then stays. A file is made anew under its name, with the mode of the host's umask; a symbolic link of that
        name is replaced, not followed.
        """
        destination = os.fspath(destination)
        with self._place(path) as (top, name):
            budget = Budget(self._most(top) if max_bytes is None else max_bytes)
            if stat.S_ISDIR(look(top, name).st_mode):
                return _get_directory(top, name, destination, budget)
            _get_file(top, name, destination, budget)
            return Fetched((destination,), ())

    def remove(self, path: _PathLike) -> None:
        """Remove a file, or a directory with all that is in it; links are removed, not followed."""
        with self._place(path) as (top, name):
            if name == ".":
                raise ValueError("files.remove: the workspace itself stays; remove what `list` returns")
            remove(top, name)

    def begin_as(self, source: _PathLike) -> None:
        """Make where the guest starts, still empty, a copy of a host's directory, as `spawn(copy_on_write=...)` does.

        Raises OSError; SandboxError for more than it can hold, or where it is a copy already.
        """
        with self._opened() as top:
            if (
                self._own is None
                or self._own.hosts
                or self._own.copy is not None
                or any(walk(top, ".", recursive=False))
            ):
                raise SandboxError(f"files of {self._name!r}: the workspace is not empty", hint="spawn another sandbox")
            copy = self._own.copy = CopyOnWrite(os.fspath(source))
            copy.fill(top)

    def diff(self) -> builtins.list[FileChange]:
        """Return what differs from the directory of `spawn(copy_on_write=...)` as it was copied, sorted by path."""
        with self._copied() as (copy, top):
            return copy.diff(top)

    def commit(self) -> builtins.list[FileChange]:
        """Write what `diff` names to that directory, all of it or nothing, and return it.

        Killed in the middle, it is finished by the next sandbox that has the directory. Raises SandboxError for what
        is neither file nor directory, and where the host has changed the same names since.
        """
        with self._copied() as (copy, top):
            return copy.commit(top)

    def discard(self) -> None:
        """Forget what the guest did: empty the copy, and copy the directory of now into it."""
        with self._copied() as (copy, top):
            copy.discard(top)

    def _most(self, top: int) -> int:
        return READ_BYTES if self._own is not None and self._own.hosts else size_of(top)

    @contextlib.contextmanager
    def _copied(self) -> Iterator[tuple[CopyOnWrite, int]]:
        with self._opened() as top:
            if self._own is None or self._own.copy is None:
                raise SandboxError(
                    f"files of {self._name!r}: its workspace is no copy", hint="spawn(copy_on_write='a directory')"
                )
            yield self._own.copy, top

    @contextlib.contextmanager
    def _place(self, path: _PathLike) -> Iterator[tuple[int, str]]:
        """Lend a descriptor of the directory that holds a path, and the path below that."""
        own, text = self._own, os.fspath(path)
        if own is None or not own.has_project:
            name = workspace.relative_name(path)
            with self._opened() as top:
                yield top, name
        elif isinstance(text, str) and text.startswith("/") and not workspace.is_project(text):
            name = workspace.relative_name(text)
            with own.memory() as top:
                yield top, name
        else:
            name = workspace.relative_name(path, (workspace.PROJECT,))
            with own.directory() as top:
                yield top, name

    def _opened(self) -> contextlib.AbstractContextManager[int]:
        if self._own is None:
            raise SandboxError(
                f"files of {self._name!r}: it has no workspace",
                hint="spawn(workspace='64MiB'), or `workspace: 64MiB` in its policy",
            )
        return self._own.directory()


# -- into the workspace ----------------------------------------------------------------------------------------------


def _put_file(top: int, source: str, name: str) -> None:
    with open(source, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "put: is no regular file", source)
        with Target(top, os.path.normpath(name)) as target:
            while data := file.read(CHUNK_BYTES):
                view = memoryview(data)
                while view:
                    view = view[os.write(target.descriptor, view) :]
            target.keep()


def _raise(error: OSError) -> None:
    raise error


# -- out of the workspace --------------------------------------------------------------------------------------------


def _get_directory(top: int, name: str, destination: str, budget: Budget) -> Fetched:
    files: list[str] = []
    left_out: list[str] = []
    os.makedirs(destination, exist_ok=True)
    for entry in walk(top, name, recursive=True):
        below = entry.path if name == "." else entry.path[len(name) + 1 :]
        if not entry.path.isprintable() or entry.kind == "other":
            left_out.append(entry.path.encode("unicode_escape").decode("ascii"))
            continue
        target = os.path.join(destination, below)
        if entry.kind == "directory":
            os.makedirs(target, exist_ok=True)
            continue
        try:
            _get_file(top, entry.path, target, budget)
        except OSError as error:
            if error.filename != entry.path:
                raise  # the host's own disk
            left_out.append(entry.path)
        else:
            files.append(target)
    return Fetched(tuple(sorted(files)), tuple(sorted(left_out)))


def _get_file(top: int, name: str, destination: str, budget: Budget) -> None:
    source = open_file(top, name)
    try:
        above = os.path.dirname(os.path.abspath(destination))
        os.makedirs(above, exist_ok=True)
        temporary = os.path.join(above, f".{os.urandom(8).hex()}")
        target = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(target, "wb") as file:
                for data in content(source, budget.left, name):
                    budget.left -= len(data)
                    file.write(data)
            os.replace(temporary, destination)
        except BaseException:
            os.unlink(temporary)
            raise
    finally:
        os.close(source)
