"""What a commit is known by to the process that finishes it: a note in a place of its user's, which no guest has. Locks
of directories are there, too: the directory's own may be a guest's.

A guest of the same user that may write to a directory could leave a commit there that it made up, or one of an earlier
day, and the host would write for it where the guest may not. So a journal is obeyed only where this user has noted it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import SandboxError
from ..native.file_lock import lock_within
from ..policy.site import check_way, user_directory

_PRIVATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Files that are locked for directories: two directories may have one.
_LOCKS = 64
#: May be written and not read: a guest of this user that may read this place opens none of them, and flock(2) needs an
#: open file of any kind.
_LOCK_MODE = 0o200
#: How long a commit waits for another one of this user (seconds).
_LOCKED_WITHIN_S = 60.0


def place() -> Path:
    """Return where notes are kept: `$XDG_STATE_HOME/pyisolate/commits`, by default below `~/.local/state`."""
    return Path(os.path.realpath(user_directory("XDG_STATE_HOME", ".local/state"))) / "pyisolate" / "commits"


@contextlib.contextmanager
def lock(host: int) -> Iterator[None]:
    """Hold a directory against this user's other processes and threads, where it has a place of its own for that.

    Raises SandboxError if one of them holds it for a minute.
    """
    held = -1
    with contextlib.suppress(OSError, RuntimeError, SandboxError):
        directory, found = place(), os.fstat(host)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_way(str(directory))
        number = (found.st_dev ^ found.st_ino) % _LOCKS
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        held = os.open(directory / f"lock-{number}", flags, _LOCK_MODE)
        os.fchmod(held, _LOCK_MODE)  # made by an earlier version: readable
    try:
        if held >= 0 and not lock_within(held, _LOCKED_WITHIN_S):
            raise SandboxError(
                f"commit, on {place()}: another process of this user holds the directory's lock (flock)",
                hint="wait for its commit to end; leave out a grant by which a guest may write there",
            )
        yield
    finally:
        if held >= 0:
            os.close(held)


def note(host: int, name: str, journal: bytes) -> bool:
    """Note a commit before its journal counts. False where this user has no place of its own for it.

    `host`: the directory; `name`: of the commit's own directory in it.
    """
    try:
        directory = place()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_way(str(directory))
        with os.fdopen(os.open(directory / name, _PRIVATE, 0o600), "wb") as file:
            file.write(_digest(host, name, journal))
            file.flush()
            os.fsync(file.fileno())
        _settle(directory)
    except (OSError, RuntimeError, SandboxError):  # RuntimeError: there is no home
        return False
    return True


def is_noted(host: int, name: str, journal: bytes) -> bool:
    """Tell whether this user began the commit of this name in this directory, with this journal."""
    with contextlib.suppress(OSError, RuntimeError, SandboxError):
        directory = place()
        check_way(str(directory))
        return (directory / name).read_bytes() == _digest(host, name, journal)
    return False


def forget(name: str) -> None:
    """Remove the note of a commit that has ended: it cannot be done again."""
    with contextlib.suppress(OSError, RuntimeError):
        (place() / name).unlink()


def _digest(host: int, name: str, journal: bytes) -> bytes:
    import hashlib  # loads OpenSSL, which first starts do without

    found = os.fstat(host)
    about = f"{found.st_dev}:{found.st_ino}:{name}\0".encode()
    return hashlib.blake2b(about + journal).digest()


def _settle(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
