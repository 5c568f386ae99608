"""Looks at the host's names that wait for no server: for threads that serve all sandboxes, about what a guest named.

A file system whose server does not answer (FUSE, NFS, 9p) lets who looks at a name of it wait without end, and a guest
may have a hand in that server, or in a link that leads there. Such names, those below automounts too, are not looked
at: OSError (EAGAIN). The root's own file system is, whatever it is. Linux 5.6 (openat2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat as modes
import threading
from collections.abc import Iterator

from . import mount, mount_table

_MOUNTS = "/proc/self/mountinfo"
#: Types of file systems that ask a server, or mount another one when a name in them is looked at.
_SERVERS = frozenset(
    (
        *(
            "fuse",
            "fuseblk",
            "virtiofs",
            "9p",
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "ceph",
            "afs",
            "coda",
            "autofs",
            "lustre",
        ),
        *("orangefs", "gpfs"),
    )
)
_LINK_LIMIT = 40  # path_resolution(7)


class _Mounts:
    """Where file systems are mounted that ask servers: read again when mounts have changed (poll(2) on mountinfo)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keepers: set[int] = set()
        #: the table, open while it is kept
        self._file = -1
        self._points: dict[str, bool] = {}

    def keep(self, keeper: object) -> None:
        with self._lock:
            self._keepers.add(id(keeper))

    def let_go(self, keeper: object) -> None:
        with self._lock:
            self._keepers.discard(id(keeper))
            if not self._keepers:
                self._close()

    def abandon(self) -> None:
        """In a forked child of the host: the parent's file says once that mounts changed."""
        self._lock = threading.Lock()
        self._keepers.clear()
        self._close()

    def points(self) -> dict[str, bool]:
        """Return the mount points, each with whether it asks a server; empty where none does, or none is known."""
        with self._lock:
            if self._file >= 0 and not _has_changed(self._file):
                return self._points
            try:
                if self._file < 0:
                    self._file = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
                self._points = _read(self._file)
            except OSError:  # without /proc
                self._points = {}
            except BaseException:
                self._close()  # or it would say that nothing has changed since
                raise
            if not self._keepers:
                self._close()
            return self._points

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _has_changed(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLPRI)
    return bool(poll.poll(0))


def _read(file: int) -> dict[str, bool]:
    mounts = mount_table.read(file)
    found = {one.point: one.kind.partition(".")[0] in _SERVERS and one.point != "/" for one in mounts}
    return found if any(found.values()) else {}


_mounts = _Mounts()


def keep(keeper: object) -> None:
    """Keep the table of mounts open until `let_go`: who looks often asks for changes alone."""
    _mounts.keep(keeper)


def let_go(keeper: object) -> None:
    """Close the table of mounts, unless another keeps it. Idempotent."""
    _mounts.let_go(keeper)


def abandon() -> None:
    """In a forked child of the host: close the copy."""
    _mounts.abandon()


def asks_server(path: str) -> bool:
    """Tell whether an absolute path, taken as it is written, lies on a file system that asks a server."""
    points = _mounts.points()
    while points and path not in points and path not in ("/", ""):
        path = path[: path.rfind("/")] or "/"
    return points.get(path, False)


def lstat(path: str) -> os.stat_result:
    """As `os.lstat`."""
    if not _mounts.points():
        return os.lstat(path)
    with opened(path, os.O_PATH) as found:
        return os.fstat(found)


def stat(path: str) -> os.stat_result:
    """As `os.stat`."""
    if not _mounts.points():
        return os.stat(path)
    with opened(path, os.O_PATH, follow=True) as found:
        return os.fstat(found)


def readlink(path: str) -> str:
    """As `os.readlink`."""
    if not _mounts.points():
        return os.readlink(path)
    with opened(path, os.O_PATH) as found:
        return os.readlink("", dir_fd=found)


def has_attribute(path: str, name: str) -> bool:
    """Tell whether a file, which is no link, has an extended attribute. Raises OSError where it is not looked at."""
    with opened(path, os.O_PATH) as found:
        # the descriptor's own name in /proc: no flag opens a file for its attributes alone (fgetxattr: EBADF)
        return name in os.listxattr(f"/proc/self/fd/{found}")


@contextlib.contextmanager
def opened(path: str, flags: int, *, follow: bool = False) -> Iterator[int]:
    """Lend a descriptor of an absolute path; `follow`: of what its last link leads to."""
    if not _mounts.points():
        file = os.open(path, flags | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    else:
        file = _open_directly(_walked(path, follow=follow), flags)
    try:
        yield file
    finally:
        os.close(file)


def is_file(path: str) -> bool:
    """As `os.path.isfile`; no where it is not looked at."""
    return _is(path, modes.S_ISREG)


def is_executable(path: str) -> bool:
    """Tell whether this process may run a file that is looked at."""
    try:
        with opened(path, os.O_PATH, follow=True) as found:
            return modes.S_ISREG(os.fstat(found).st_mode) and os.access(f"/proc/self/fd/{found}", os.X_OK)
    except (OSError, ValueError):
        return False


def is_directory(path: str) -> bool:
    """As `os.path.isdir`; no where it is not looked at."""
    return _is(path, modes.S_ISDIR)


def is_link(path: str) -> bool:
    """As `os.path.islink`; no where it is not looked at."""
    try:
        return modes.S_ISLNK(lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is(path: str, of_kind: object) -> bool:
    try:
        return bool(of_kind(stat(path).st_mode))  # type: ignore[operator]
    except (OSError, ValueError):
        return False


def _open_directly(path: str, flags: int) -> int:
    """Open a path without a link on its way: who swaps one in meets ELOOP, and no server."""
    if asks_server(path):
        raise OSError(errno.EAGAIN, "its file system asks a server", path)
    return mount.openat2(path, flags | os.O_NOFOLLOW, mount.RESOLVE_NO_SYMLINKS)


def _walked(path: str, *, follow: bool) -> str:
    """Return a path with its links followed, without its own unless `follow`. Raises OSError."""
    pending, done, links = path.split("/")[::-1], "", 0
    while pending:
        name = pending.pop()
        if name in ("", ".", ".."):
            done = done.rpartition("/")[0] if name == ".." else done
            continue
        done = f"{done}/{name}"
        if not pending and not follow:
            break
        found = _open_directly(done, os.O_PATH)
        try:
            leads = os.readlink("", dir_fd=found) if modes.S_ISLNK(os.fstat(found).st_mode) else None
        finally:
            os.close(found)
        if leads is None:
            continue
        links += 1
        if links > _LINK_LIMIT:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        done = "" if leads.startswith("/") else done.rpartition("/")[0]
        pending += leads.split("/")[::-1]
    return done or "/"
