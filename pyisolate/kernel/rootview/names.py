"""Names of the host's that a yes removes, makes or moves: the builder's worker does it, as the guest's call would.

Each is a last component in a directory that is opened without following a link, and is still the one that was looked
at. What has the name is compared right before the call, which acts by the name: who else may write to that directory
can put another thing there within these microseconds. Where nothing was to have the name, the kernel sees to it
(mkdir, RENAME_NOREPLACE).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from ...native import mount

NameCall = Literal["unlink", "rmdir", "mkdir", "rename", "link"]


class HostName(msgspec.Struct, frozen=True):
    """A name in a directory of the host's, what that directory must be, and what must have the name: None, nothing."""

    directory: str
    device: int
    inode: int
    name: str
    found: tuple[int, int] | None = None


class NameChange(msgspec.Struct, frozen=True):
    """A call that changes names: of `at`, and of a move or a link also `to`. `mode`: of a directory that is made."""

    call: NameCall
    at: HostName
    to: HostName | None = None
    mode: int = 0


def change_names(change: NameChange, uid: int, gid: int) -> int:
    """Make the call; return its error number, or 0. Raises OSError where a name is not what it was, before the call."""
    with contextlib.ExitStack() as held:
        at = held.enter_context(_directory(change.at))
        if change.call == "mkdir":
            return _error_of(lambda: _make(at, change.at.name, change.mode, uid, gid))
        if change.to is None:
            _check(change.at, at)
            remove = os.rmdir if change.call == "rmdir" else os.unlink
            return _error_of(lambda: remove(change.at.name, dir_fd=at))
        to, flags = held.enter_context(_directory(change.to)), 0
        if change.call == "link":
            return _link(change.at, at, change.to.name, to)
        _check(change.at, at)
        if change.to.found is None:
            flags = mount.RENAME_NOREPLACE
        else:
            _check(change.to, to)
        names = change.at.name, change.to.name
        return _error_of(lambda: mount.renameat2(at, names[0], to, names[1], flags))


def _error_of(call: Callable[[], None]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


@contextlib.contextmanager
def _directory(of: HostName) -> Iterator[int]:
    at = mount.openat2(of.directory, os.O_PATH | os.O_DIRECTORY, mount.RESOLVE_NO_SYMLINKS)
    try:
        found = os.fstat(at)
        if (found.st_dev, found.st_ino) != (of.device, of.inode):
            raise _another(of.directory)
        yield at
    finally:
        os.close(at)


def _check(of: HostName, directory: int) -> None:
    found = os.stat(of.name, dir_fd=directory, follow_symlinks=False)
    if (found.st_dev, found.st_ino) != of.found:
        raise _another(os.path.join(of.directory, of.name))


def _link(of: HostName, directory: int, name: str, to: int) -> int:
    """Give the very file that was looked at another name, whatever has its own by now."""
    file = os.open(of.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(file)
        if (found.st_dev, found.st_ino) != of.found:
            raise _another(os.path.join(of.directory, of.name))
        return _error_of(lambda: os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=to))  # AT_SYMLINK_FOLLOW, open(2)
    finally:
        os.close(file)


def _another(path: str) -> OSError:
    return OSError(errno.ESTALE, f"{path} is another one than it was")


def _make(directory: int, name: str, mode: int, uid: int, gid: int) -> None:
    """Make a directory, the guest's; none is left where it cannot be. Another's in its place stays, unless as empty."""
    os.mkdir(name, 0o700, dir_fd=directory)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(made)
        if (found.st_uid, stat.S_IMODE(found.st_mode) & 0o777) != (os.geteuid(), 0o700) or os.listdir(made):
            raise _another(name)
        try:
            if found.st_uid != uid:
                os.fchown(made, uid, gid)  # before the guest's mode: never the supervisor's for all to write to
            os.fchmod(made, mode | (stat.S_IMODE(found.st_mode) & stat.S_ISGID))
        except OSError:
            _remove(directory, name, found)
            raise
    finally:
        os.close(made)


def _remove(directory: int, name: str, made: os.stat_result) -> None:
    with contextlib.suppress(OSError):  # who else may write there has removed it, or filled it
        if os.path.samestat(made, os.stat(name, dir_fd=directory, follow_symlinks=False)):
            os.rmdir(name, dir_fd=directory)
