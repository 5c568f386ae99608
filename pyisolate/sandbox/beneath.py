"""Names beneath a directory that others fill: opened, walked and written without following a link (openat2(2), 5.6).

All by descriptors: checked is the opened file, not the name. A guest can hold a directory's lock (getdents64(2) into
memory that it keeps busy): the caller's thread waits for it then, until the sandbox ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..errors import SandboxError
from ..native import mount

Kind = Literal["file", "directory", "other"]
#: A FIFO or a device would make `open` wait, or do something; without O_PATH these flags alone keep it from that.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
CHUNK_BYTES = 1 << 20
#: What `list` and `get` follow of a guest's tree.
MOST_NAMES, DEEPEST = 100_000, 64


class FileEntry(NamedTuple):
    """One name in a workspace. `path` is relative to it; `size` in bytes; `modified` in seconds since 1970 (UTC).

    `kind` is `other` for what is neither a regular file nor a directory: a link, a FIFO, a socket.
    """

    path: str
    kind: Kind
    size: int
    modified: float


class Budget:
    """Bytes that may still be copied."""

    def __init__(self, left: int) -> None:
        self.left = left


def open_beneath(top: int, name: str, flags: int) -> int:
    """Open a name beneath a directory; the descriptor is the caller's. Raises OSError, which names it."""
    try:
        return mount.openat2(name, flags, mount.BENEATH, dirfd=top)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENXIO):
            raise OSError(error.errno, "is no regular file or directory, or lies beyond a link", name) from None
        raise OSError(error.errno, os.strerror(error.errno or 0), name) from None


def look(top: int, name: str) -> os.stat_result:
    """Return what a name is, a link itself. Raises OSError."""
    descriptor = open_beneath(top, name, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def open_file(top: int, name: str) -> int:
    """Open a regular file for reading; a FIFO, a device and a link are refused."""
    descriptor = open_beneath(top, name, _READ | os.O_NOFOLLOW)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    raise OSError(errno.ELOOP, "is no regular file", name)


def content(descriptor: int, most: int, name: str) -> Iterator[bytes]:
    """Yield an open file's bytes in parts. Raises SandboxError past `most` bytes."""
    left = most
    while data := os.read(descriptor, min(CHUNK_BYTES, left + 1)):
        left -= len(data)
        if left < 0:
            raise SandboxError(
                f"files: {name}: more than {most} bytes", hint="pass a larger max_bytes, or let the guest write less"
            )
        yield data


def size_of(top: int) -> int:
    """Return how much a file system holds (bytes)."""
    found = os.statvfs(top)
    return found.f_blocks * found.f_frsize


def walk(top: int, start: str, *, recursive: bool) -> Iterator[FileEntry]:
    """Yield what is below a directory, opened by descriptors all the way. Raises SandboxError for too large a tree."""
    waiting, seen = [(start, 1)], 0
    while waiting:
        name, depth = waiting.pop()
        try:
            directory = open_beneath(top, name, DIRECTORY)
        except OSError:
            if name == start:
                raise
            continue  # the guest took it away, or put something else in its place
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MOST_NAMES or depth > DEEPEST:
                        raise SandboxError(
                            f"files: more than {MOST_NAMES} names, or {DEEPEST} levels, below {start}",
                            hint="name a narrower directory",
                        )
                    path = entry.name if name == "." else f"{name}/{entry.name}"
                    found = _entry(directory, entry.name, path)
                    if found is None:
                        continue
                    yield found
                    if recursive and found.kind == "directory":
                        waiting.append((path, depth + 1))
        finally:
            os.close(directory)


def _entry(directory: int, name: str, path: str) -> FileEntry | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    kind: Kind = "other"
    if stat.S_ISREG(found.st_mode):
        kind = "file"
    elif stat.S_ISDIR(found.st_mode):
        kind = "directory"
    return FileEntry(path, kind, found.st_size if kind == "file" else 0, found.st_mtime)


def _give(top: int, descriptor: int, mode: int) -> None:
    """Make the guest's what the host has made: everyone's where everyone may write, as in memory, else the owner's."""
    owner = os.fstat(top)
    if owner.st_mode & stat.S_IWOTH:
        os.fchmod(descriptor, mode | (mode & 0o700) >> 3 | (mode & 0o700) >> 6)
        return
    if owner.st_uid != os.geteuid():
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    os.fchmod(descriptor, mode)


def _is_new(directory: int) -> bool:
    """Tell whether an open directory can be one that this process has made just now."""
    found = os.fstat(directory)
    return (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o700) and not os.listdir(directory)


def make_directories(top: int, name: str) -> None:
    """Make a directory with those above it, where they are not there."""
    done = "."
    for part in name.split("/") if name != "." else ():
        above = open_beneath(top, done, DIRECTORY)
        try:
            done = part if done == "." else f"{done}/{part}"
            try:
                os.mkdir(part, 0o700, dir_fd=above)
            except FileExistsError:
                continue
            made = open_beneath(above, part, DIRECTORY)
            try:
                if not _is_new(made):  # the guest put another there, which it may not read
                    raise OSError(errno.ESTALE, "another directory took the place of the one that was made", name)
                _give(top, made, 0o700)
            finally:
                os.close(made)
        finally:
            os.close(above)


class Target:
    """A file that is being written under a name of its own, and takes its place with `keep`."""

    def __init__(self, top: int, name: str) -> None:
        if name == ".":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        above, _, self._last = name.rpartition("/")
        make_directories(top, above or ".")
        self._top, self._name = top, name
        self._temporary = f".{os.urandom(8).hex()}"
        self._above = open_beneath(top, above or ".", DIRECTORY)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
            self.descriptor = open_beneath(self._above, self._temporary, flags)
        except BaseException:
            os.close(self._above)
            raise

    def __enter__(self) -> Target:
        return self

    def keep(self) -> None:
        """Give it to the guest, under its name."""
        _give(self._top, self.descriptor, 0o600)
        try:
            os.rename(self._temporary, self._last, src_dir_fd=self._above, dst_dir_fd=self._above)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), self._name) from None

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # the guest moved it: its own memory holds it
                os.unlink(self._temporary, dir_fd=self._above)
        os.close(self.descriptor)
        os.close(self._above)


def remove(top: int, name: str) -> None:
    """Remove a file, or a directory with all that is in it; no link is followed. Raises OSError, SandboxError."""
    above, _, last = name.rpartition("/")
    directory = open_beneath(top, above or ".", DIRECTORY)
    try:
        try:
            os.unlink(last, dir_fd=directory)
            return
        except IsADirectoryError:
            pass
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), name) from None
        _empty(directory, last, 0)
    finally:
        os.close(directory)


def _empty(above: int, name: str, depth: int) -> None:
    """Remove a directory with what is in it, by descriptors: no link is followed."""
    if depth > DEEPEST:
        raise SandboxError(f"files.remove: more than {DEEPEST} levels deep", hint="remove what is deeper first")
    directory = open_beneath(above, name, DIRECTORY)
    try:
        for entry in os.listdir(directory):
            try:
                os.unlink(entry, dir_fd=directory)
            except IsADirectoryError:
                _empty(directory, entry, depth + 1)
            except FileNotFoundError:
                pass
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=above)
