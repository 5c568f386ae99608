"""Paths as operations see them: exact text, absolute, resolved to what they reach.

Works on private references to the system calls, none of which raises an audit event, so that neither a hook's own
look-ups nor a patched `os` changes what is asked. What cannot be resolved is None: left to the kernel.
"""

from __future__ import annotations

import _thread
import collections
import errno
import os
import pathlib
import posix
import re
import stat
import time
from collections.abc import Sequence

_lstat, _stat, _readlink, _getcwd, _fspath = posix.lstat, posix.stat, posix.readlink, posix.getcwd, posix.fspath
_access, _fstat, _monotonic_ns = posix.access, posix.fstat, time.monotonic_ns
_get_ident = _thread.get_ident
#: Path objects whose `__fspath__` is the library's own.
_PATH_TYPES = (pathlib.PosixPath, pathlib.PurePosixPath, os.DirEntry)
_ENVIRON_TYPE, _ENVIRON = type(os.environ), os.environ

#: The kernel follows at most 40 links on one path (path_resolution(7)).
_LINK_LIMIT = 40
_NO_DIR_FD = (-1, -100, None)  # -1: what audit events carry for "none"; -100: AT_FDCWD (linux/fcntl.h)
#: Name the process that asks: a policy speaks of them by this name, not by the number it stands for today.
_SELF_LINKS = ("/proc/self", "/proc/thread-self")
_OWN_DESCRIPTOR = re.compile(r"/dev/(?:stdin|stdout|stderr|fd/[0-9]{1,7})")
_opens_descriptors = False

#: The dir_fd of an `os.open` under way, by thread: its audit event does not carry it (3.11 to 3.13).
open_dir_fd: dict[int, int] = {}


#: Threads inside a call with `follow_symlinks=False`, which no audit event carries (3.11 to 3.13).
unfollowing: set[int] = set()


def _ours(path: str) -> str:
    """Return a name by which hooks look for themselves, which the C library does not report (preload/lookups.c)."""
    return f"/.{path}" if path[:1] == "/" else path


def text(value: object) -> str | None:
    """Return a path argument as an exact `str`; None for descriptors and for what is not a path.

    No method of a guest's class is called: what it would raise inside a hook would go unasked.
    """
    if type(value) is str:
        return value
    if type(value) in _PATH_TYPES:
        value = _fspath(value)  # type: ignore[call-overload]
    if isinstance(value, str):
        return str.__getitem__(value, slice(None))
    if isinstance(value, bytes):
        return bytes.decode(value, "utf-8", "surrogateescape")
    return None


#: What `os.open` opened for reading alone, by descriptor: cells have no /proc to ask. Closed ones may be among them.
_opened: dict[int, str] = {}
#: What was opened last by whatever function, of which no event tells the descriptor.
_opened_last: collections.deque[str] = collections.deque(maxlen=64)
note_opened = _opened_last.append


def remember_descriptor(descriptor: int, value: object, dir_fd: int | None) -> None:
    """Note by which path a descriptor was opened."""
    path = value if type(value) is str and value[:1] == "/" else absolute(value, dir_fd)
    if path is None:
        _opened.pop(descriptor, None)
    else:
        _opened[descriptor] = path


def of_descriptor(descriptor: int) -> str | None:
    """Return the path that a descriptor was opened by; None where that is not known or leads elsewhere by now."""
    try:
        path = _readlink(f"/./proc/self/fd/{descriptor}")
    except (OSError, ValueError):
        return _remembered(descriptor)
    return path if path.startswith("/") and not path.endswith(" (deleted)") else None


def _remembered(descriptor: int) -> str | None:
    known = _opened.get(descriptor)
    try:
        has = _fstat(descriptor)
    except (OSError, ValueError):
        return None
    for path in dict.fromkeys(([] if known is None else [known]) + list(_opened_last)[::-1]):
        try:
            found = _stat(_ours(path))
        except (OSError, ValueError):
            continue
        if (has.st_dev, has.st_ino) == (found.st_dev, found.st_ino):
            return _resolve(path)
    return None


def absolute(value: object, dir_fd: int | None = None, *, base: object = None) -> str | None:
    """Return the absolute path, from `base` or `dir_fd` or the current directory."""
    path = text(value)
    if path is None or not path or "\0" in path:
        return None
    if path[0] == "/":
        return path
    try:
        start = text(base) if base is not None else _getcwd() if dir_fd in _NO_DIR_FD else of_descriptor(dir_fd or 0)
    except OSError:
        return None
    if start is None:
        return None
    return f"{start}/{path}" if start.startswith("/") else absolute(f"{start}/{path}")


def reached(value: object, dir_fd: int | None = None, *, follow: bool = True, base: object = None) -> str | None:
    """Return the path that an operation reaches: links resolved, the last one only with `follow`.

    Missing components stay as they are, so that a refusal names what was asked for.
    """
    path = absolute(value, dir_fd, base=base)
    if path is None:
        return None
    if follow:
        return _resolve(path)
    stripped = path.rstrip("/")
    head, _, tail = stripped.rpartition("/")
    if tail in ("", ".", ".."):
        return _resolve(path)
    parent = _resolve(head or "/")
    return None if parent is None else f"{parent.rstrip('/')}/{tail}"


def leads_further(value: object) -> bool:
    """Tell whether a name ends so that the kernel follows it whatever the call says: in "/", "." or ".."."""
    return (text(value) or "").rpartition("/")[2] in ("", ".", "..")


def is_unfollowing() -> bool:
    """Tell whether this thread is inside a call that follows no link at the end of a name."""
    return bool(unfollowing) and _get_ident() in unfollowing


def reached_by_change(value: object, dir_fd: int | None) -> str | None:
    """Return what a change of metadata reaches: the link itself where its caller said so (`unfollowing`)."""
    return reached(value, dir_fd, follow=not is_unfollowing() or leads_further(value))


def is_link_opened(value: object) -> bool:
    """Tell whether the name of an `open` event is a symbolic link's."""
    if leads_further(value):
        return False
    path = reached(value, open_dir_fd.get(_get_ident()) if open_dir_fd else None, follow=False)
    try:
        return path is not None and bool(_readlink(_ours(path)))
    except (OSError, ValueError):
        return False


def open_own_descriptors(enabled: bool) -> None:
    """Say whether this process's C library opens the names of its descriptors itself (native/src/preload/files.c)."""
    global _opens_descriptors
    _opens_descriptors = enabled


def is_own_descriptor(value: object) -> bool:
    """Tell whether a name to be opened stands for a descriptor that this process has open already."""
    if not _opens_descriptors:
        return False
    path = value if type(value) is str else text(value)
    return path is not None and path[:5] == "/dev/" and _OWN_DESCRIPTOR.fullmatch(path) is not None


def reached_by_open(value: object) -> str | None:
    """Return what an `open` event reaches, with the dir_fd that the wrapper of `os.open` noted."""
    return reached(value, open_dir_fd.get(_get_ident()) if open_dir_fd else None)


class _Directories:
    """Directories resolved a moment ago: most operations stay in few of them.

    Forgotten after a tenth of a second and whenever this process changes a name, so that what the broker is asked
    follows the file system; what another process changes in between is the kernel's to see.
    """

    KEPT_NS = 100_000_000
    LIMIT = 256

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._since_ns = 0

    def resolve(self, directory: str) -> str | None:
        now = _monotonic_ns()
        if now - self._since_ns > self.KEPT_NS or len(self._known) >= self.LIMIT:
            self._known.clear()
            self._since_ns = now
        known = self._known.get(directory)
        if known is None:
            found, missing = _walk(directory)
            if found is None or missing:
                return found
            known = self._known[directory] = found
        return known

    def forget(self) -> None:
        """Look again: a name is about to change."""
        self._known.clear()


_directories = _Directories()
forget_directories = _directories.forget


def _resolve(path: str) -> str | None:
    head, _, tail = path.rpartition("/")
    if tail in ("", ".", ".."):
        return _walk(path)[0]
    parent = _directories.resolve(head) if head else ""
    if parent is None:
        return None
    here = f"{parent}/{tail}" if parent != "/" else f"/{tail}"
    try:
        _readlink(f"/.{here}")  # lstat would be refused, and recorded, where BPF-LSM decides: no operation of the guest
    except (OSError, ValueError):
        return here
    return _walk(here)[0]


def _walk(path: str) -> tuple[str | None, bool]:
    """Resolve every link on a path; tell whether something on it is missing. None: a loop, or no path at all."""
    pending = path.split("/")[::-1]
    done: list[str] = []
    links = 0
    missing = False
    while pending:
        name = pending.pop()
        if not name or name == ".":
            continue
        if name == "..":
            if done and not _access(_ours("/" + "/".join(done)), 1):  # 1: X_OK (access(2)); it is not there, or covered
                return None, True
            if done:
                done.pop()
            continue
        done.append(name)
        here = "/" + "/".join(done)
        if here in _SELF_LINKS:
            continue
        try:
            target = _readlink(_ours(here))
        except (OSError, ValueError) as error:
            missing = missing or getattr(error, "errno", None) != errno.EINVAL  # EINVAL: it is there, and no link
            continue
        links += 1
        # a loop, or a descriptor's magic link ("pipe:[1]")
        if links > _LINK_LIMIT or (here.startswith("/proc/") and not target.startswith("/") and ":[" in target):
            return None, False
        done.pop()
        if target.startswith("/"):
            done.clear()
        pending.extend(target.split("/")[::-1])
    return "/" + "/".join(done), missing


def exists(path: str, *, covered: bool = True) -> bool:
    """Tell whether a path exists, links followed; True when that may not be known.

    `covered`: what to say of a path in a directory that may not be searched, as a denied one.
    """
    try:
        _stat(_ours(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return covered
    except (OSError, ValueError):
        pass
    return True


def is_directory(path: str) -> bool:
    """Tell whether a path is a directory's, links followed."""
    try:
        return stat.S_ISDIR(_stat(_ours(path)).st_mode)
    except (OSError, ValueError):
        return False


def present(path: str) -> bool:
    """Tell whether a name exists, be it a dangling link; False when that may not be known."""
    try:
        _lstat(_ours(path))
    except (OSError, ValueError):
        return False
    return True


def absent(path: str) -> bool:
    """Tell whether a name is not there, as far as is shown here; False where that may not be known."""
    try:
        _lstat(_ours(path))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


def executable(name: object, *, search: object = None, base: object = None) -> str | None:
    """Return the program of an exec of `name`, a link itself, searched in PATH where it holds no slash.

    A program that is not found may only be out of sight: its name is then completed with a directory of PATH, so that
    the refusal says what a rule would have to grant.
    """
    path = text(name)
    if path is None:
        return of_descriptor(name) if isinstance(name, int) else None
    if "/" in path:
        return reached(path, follow=False, base=base)
    directories = [directory or "." for directory in _search_path(search).split(":")]
    for directory in directories:
        candidate = f"{directory}/{path}"
        try:
            if _access(_ours(candidate), 1) and stat.S_ISREG(_stat(_ours(candidate)).st_mode):  # 1: X_OK (access(2))
                return reached(candidate, follow=False)
        except (OSError, ValueError):
            continue
    # one that the host is asked about lies where nothing runs yet (kernel/rootview/gates.py)
    shut = next((one for one in directories if _is_program(f"{one}/{path}")), None)
    return f"{likely_directory(directories)}/{path}" if shut is None else reached(f"{shut}/{path}", follow=False)


def _is_program(path: str) -> bool:
    try:
        mode = _stat(_ours(path)).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def likely_directory(directories: Sequence[str]) -> str:
    """Return the directory of a search path where a program that cannot be seen would most likely be."""
    usual = [directory for directory in ("/usr/bin", "/bin") if directory in directories]
    return next((directory for directory in (*usual, *directories) if directory.startswith("/")), "/usr/bin")


def _search_path(environment: object) -> str:
    given = _ENVIRON if environment is None else environment
    if type(given) is _ENVIRON_TYPE:
        given = vars(given)["_data"]
    found = (given.get(b"PATH") or given.get("PATH")) if type(given) is dict else None
    return text(found) or "/bin:/usr/bin"
