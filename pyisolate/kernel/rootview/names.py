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

from ...native import mount, places

#: Which file one is: its device, its number there, its kind, and when it was made.
Identity = tuple[int, int, int, int]

NameCall = Literal["unlink", "rmdir", "mkdir", "rename", "link", "symlink"]


class HostName(msgspec.Struct, frozen=True):
    """A name in a directory of the host's, what that directory must be, and what must have the name: None, nothing."""

    directory: str
    device: int
    inode: int
    name: str
    found: Identity | None = None


class NameChange(msgspec.Struct, frozen=True, tag="names"):
    """A call that changes names: of `at`, and of a move or a link also `to`.

    `mode`: of a directory that is made; `text`: of a symbolic link, where it leads.
    """

    call: NameCall
    at: HostName
    to: HostName | None = None
    mode: int = 0
    text: str = ""


def change_names(change: NameChange, uid: int, gid: int) -> int:
    """Make the call; return its error number, or 0. Raises OSError where a name is not what it was, before the call."""
    with contextlib.ExitStack() as held:
        at = held.enter_context(directory_of(change.at))
        if change.call == "mkdir":
            return error_of(lambda: _make(at, change.at.name, change.mode, uid, gid))
        if change.call == "symlink":
            return error_of(lambda: _make_link(at, change.at.name, change.text, uid, gid))
        if change.to is None:
            _check(change.at, at)
            remove = os.rmdir if change.call == "rmdir" else os.unlink
            return error_of(lambda: remove(change.at.name, dir_fd=at))
        to, flags = held.enter_context(directory_of(change.to)), 0
        if change.call == "link":
            return _link(change.at, at, change.to.name, to)
        _check(change.at, at)
        if change.to.found is None:
            flags = mount.RENAME_NOREPLACE
        else:
            _check(change.to, to)
        names = change.at.name, change.to.name
        return error_of(lambda: mount.renameat2(at, names[0], to, names[1], flags))


def error_of(call: Callable[[], None]) -> int:
    """Return the error number of a call, or 0."""
    try:
        call()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


@contextlib.contextmanager
def directory_of(of: HostName) -> Iterator[int]:
    """Yield a descriptor of a name's directory. Raises OSError where it is another one by now."""
    at = mount.openat2(of.directory, os.O_PATH | os.O_DIRECTORY, mount.RESOLVE_NO_SYMLINKS)
    try:
        found = os.fstat(at)
        if (found.st_dev, found.st_ino) != (of.device, of.inode):
            raise another(of.directory)
        yield at
    finally:
        os.close(at)


def identity_of(file: int) -> Identity:
    """Return which file a descriptor (O_PATH will do) is of.

    Its number alone does not say: ext4 gives that of a removed file to the next one that is made. The time of birth is
    0 where a file system keeps none, and as fine as the kernel's clock tick: the kind is compared for itself.
    """
    found = os.fstat(file)
    return found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), places.born("", dir_fd=file)


@contextlib.contextmanager
def file_of(of: HostName, directory: int) -> Iterator[int]:
    """Yield a descriptor of the file that was looked at. Raises OSError where its name is another one's by now."""
    file = os.open(of.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if identity_of(file) != of.found:
            raise another(os.path.join(of.directory, of.name))
        yield file
    finally:
        os.close(file)


def _check(of: HostName, directory: int) -> None:
    with file_of(of, directory):
        pass


def _link(of: HostName, directory: int, name: str, to: int) -> int:
    """Give the very file that was looked at another name, whatever has its own by now."""
    with file_of(of, directory) as file:
        return error_of(lambda: os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=to))  # AT_SYMLINK_FOLLOW, open(2)


def another(path: str) -> OSError:
    """Return the error of a place where another thing is by now."""
    return OSError(errno.ESTALE, f"{path} is another one than it was")


def _make(directory: int, name: str, mode: int, uid: int, gid: int) -> None:
    """Make a directory, the guest's; none is left where it cannot be. Another's in its place stays, unless as empty."""
    os.mkdir(name, 0o700, dir_fd=directory)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(made)
        if (found.st_uid, stat.S_IMODE(found.st_mode) & 0o777) != (os.geteuid(), 0o700) or os.listdir(made):
            raise another(name)
        try:
            if found.st_uid != uid:
                os.fchown(made, uid, gid)  # before the guest's mode: never the supervisor's for all to write to
            os.fchmod(made, mode | (stat.S_IMODE(found.st_mode) & stat.S_ISGID))
        except OSError:
            _remove(directory, name, found)
            raise
    finally:
        os.close(made)


def _make_link(directory: int, name: str, text: str, uid: int, gid: int) -> None:
    """Make a symbolic link, the guest's; none is left where it cannot be.

    It is given away by a descriptor of itself: who else may write to the directory can put another file in its place.
    The kernel follows links of others in places like /tmp less far (fs.protected_symlinks, proc_sys_fs(5)).
    """
    os.symlink(text, name, dir_fd=directory)
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(made)
        own = stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if not own or os.readlink("", dir_fd=made) != text:
            raise another(name)
        if found.st_uid != uid:
            try:
                mount.chown(made, uid, gid)
            except OSError:
                _remove(directory, name, found)
                raise
    finally:
        os.close(made)


def _remove(directory: int, name: str, made: os.stat_result) -> None:
    remove = os.rmdir if stat.S_ISDIR(made.st_mode) else os.unlink
    with contextlib.suppress(OSError):  # who else may write there has removed it, or filled it
        if os.path.samestat(made, os.stat(name, dir_fd=directory, follow_symlinks=False)):
            remove(name, dir_fd=directory)
