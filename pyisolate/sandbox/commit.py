"""Writes a guest's changes to a directory of the host's: all of them or none, whenever the process is killed.

What is to be written lies first in a directory of its own in the host's, then a journal says what goes where, and only
then files get their names. Without a journal a commit has not happened; with one, the next use of the
directory finishes it (`finish`). Each step may be done again. The caller holds the directory's lock.

Guests of the same user may be able to write to the directory: a journal counts where this user has noted it elsewhere
(`commit_record`), and a staged file where it is what the journal says. They could change it until it has its name: what
gets the name is a copy in the directory where the name is, of the bytes that were compared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import msgspec

from ..errors import SandboxError
from ..policy.workspace import relative_name
from . import commit_record
from .beneath import DIRECTORY, Budget, Kind, content, look, open_beneath, open_file

if TYPE_CHECKING:
    import hashlib

#: Directories of commits begin so; no guest may make such a name for a commit.
STAGING = ".pyisolate-commit-"
_JOURNAL, _UNFINISHED = "journal", "journal.new"
#: Number, size and times of a file: the kernel's own, of which no guest can set the last back (ctime).
Mark = tuple[int, int, int, int]
#: A journal of 100 000 names of 4 KiB (bytes).
_LARGEST_JOURNAL = 512 << 20
_WRITE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class FileChange(NamedTuple):
    """What became of one name: `change` is `A` (added), `M` (modified) or `D` (deleted); sizes are in bytes.

    `kind` is `other` for what no commit takes: a link, a FIFO, a socket, a name that is no printable text (escaped).
    """

    path: str
    change: Literal["A", "M", "D"]
    kind: Kind
    size: int
    size_before: int


class _Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names, in the order in which they are done. `files` are staged under their number; `digests` are of them."""

    #: with what is to be deleted: what the host puts there later stays
    deleted: list[tuple[str, Mark]]
    directories: list[str]
    files: list[str]
    digests: list[bytes]


def mark_of(found: os.stat_result) -> Mark:
    """Return what tells a file from any other, and from itself at another time."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write(
    host: int, top: int, changes: Sequence[FileChange], known: Mapping[str, Mark], budget: Budget
) -> dict[str, bytes]:
    """Commit the changes of a workspace `top`; return a digest of each file that was taken.

    `known`: what the host's names are.
    Raises OSError, SandboxError; nothing was changed then, unless a journal was written, which `finish` completes.
    """
    name = STAGING + os.urandom(8).hex()
    os.mkdir(name, 0o700, dir_fd=host)
    try:
        staging = open_beneath(host, name, DIRECTORY)
        try:
            journal = _journal(changes, known)
            written = {path: _stage(host, top, staging, path, n, budget) for n, path in enumerate(journal.files)}
            journal.digests.extend(written.values())
            _write_journal(host, name, staging, msgspec.msgpack.encode(journal))
        finally:
            os.close(staging)
    except BaseException:
        _clear(host, name)
        raise
    os.fsync(host)
    _complete(host, name, journal)
    return written


def finish(host: int) -> None:
    """Complete or take back the commits whose process was killed. Raises SandboxError where that cannot be done."""
    for name in os.listdir(host):
        if name.startswith(STAGING) and "." not in name[1:]:  # else the copy that was to get a name
            found = look(host, name)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():  # none of another user's
                try:
                    _complete(host, name)
                except OSError as error:
                    raise SandboxError(
                        f"finish the commit {name}, whose process was killed: {error}",
                        hint="what it was to write is in there: put it right, or remove that directory",
                    ) from error


def _complete(host: int, name: str, journal: _Journal | None = None) -> None:
    """Do what a commit's journal says, and take it away. `journal`: of one that this process has just written."""
    staging = open_beneath(host, name, DIRECTORY)
    try:
        with contextlib.suppress(FileNotFoundError):
            _apply(host, name, staging, journal or _read_journal(host, name, staging))
    finally:
        os.close(staging)
    _clear(host, name)


def _journal(changes: Sequence[FileChange], known: Mapping[str, Mark]) -> _Journal:
    files = [change.path for change in changes if change.kind == "file" and change.change != "D"]
    new = set(files)
    # a rename takes the place of a file or link: done twice, a deletion would take the new one
    gone = [c.path for c in changes if c.change == "D" and not (c.kind == "file" and c.path in new)]
    directories = [c.path for c in changes if c.kind == "directory" and c.change == "A"]
    deleted = [(path, known[path]) for path in sorted(gone, reverse=True)]
    return _Journal(deleted=deleted, directories=sorted(directories), files=files, digests=[])


def new_digest() -> hashlib.blake2b:
    """Return a digest of a file's content, which nothing outside this process is compared with."""
    import hashlib  # loads OpenSSL, which first starts do without

    return hashlib.blake2b()


def _stage(host: int, top: int, staging: int, path: str, number: int, budget: Budget) -> bytes:
    """Copy one file of the guest's, and return a digest of it; a file of the host's keeps mode and owner."""
    digest = new_digest()
    source = open_file(top, path)
    try:
        target = os.open(str(number), _WRITE, 0o666, dir_fd=staging)
        with os.fdopen(target, "wb") as file:
            _take_after(host, path, target)
            for data in content(source, budget.left, path):
                budget.left -= len(data)
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(target)
    finally:
        os.close(source)
    return digest.digest()


def _take_after(host: int, path: str, target: int) -> None:
    """Give a new file the mode and owner of the one whose place it takes."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # or what is above it is made by this commit
        before = look(host, path)
        if stat.S_ISREG(before.st_mode):
            if before.st_uid != os.geteuid() or before.st_gid != os.getegid():
                with contextlib.suppress(PermissionError):  # an ordinary user's new file is its own
                    os.fchown(target, before.st_uid, before.st_gid)
            os.fchmod(target, before.st_mode & 0o777)


def _write_journal(host: int, name: str, staging: int, journal: bytes) -> None:
    commit_record.note(host, name, journal)  # else no other process finishes it
    with os.fdopen(os.open(_UNFINISHED, _WRITE, 0o600, dir_fd=staging), "wb") as file:
        file.write(journal)
        file.flush()
        os.fsync(file.fileno())
    os.rename(_UNFINISHED, _JOURNAL, src_dir_fd=staging, dst_dir_fd=staging)
    os.fsync(staging)


def _read_journal(host: int, name: str, staging: int) -> _Journal:
    descriptor = open_file(staging, _JOURNAL)
    try:
        data = b"".join(content(descriptor, _LARGEST_JOURNAL, _JOURNAL))
    finally:
        os.close(descriptor)
    if not commit_record.is_noted(host, name, data):
        raise SandboxError(
            f"finish the commit {name}: nothing in {commit_record.place()} says that this user began it",
            hint="a guest may have made it up: look at it, put right by hand what it was to write, and remove it",
        )
    try:
        journal = msgspec.msgpack.decode(data, type=_Journal)
        deleted = [path for path, _ in journal.deleted]
        if any(relative_name(path) != path for path in (*deleted, *journal.directories, *journal.files)):
            raise ValueError("a name leads elsewhere")
        if len(journal.digests) != len(journal.files):
            raise ValueError("a digest is missing")
    except (ValueError, msgspec.MsgspecError) as error:
        raise SandboxError(
            f"finish a commit: its journal is damaged ({error})", hint=f"look at {STAGING}* there, and remove it"
        ) from error
    return journal


def _apply(host: int, name: str, staging: int, journal: _Journal) -> None:
    """Do what a journal says; what is done already stays as it is. Nothing is done where a staged file was changed."""
    waiting = [number for number, digest in enumerate(journal.digests) if _is_staged(staging, number, digest)]
    for path, mark in journal.deleted:
        with contextlib.suppress(FileNotFoundError):
            _delete(host, path, mark)
    for path in journal.directories:
        with _folder(host, path) as (folder, last), contextlib.suppress(FileExistsError):
            os.mkdir(last, 0o777, dir_fd=folder)
    for number in waiting:
        _name(host, f"{name}.{number}", staging, number, journal)
    os.fsync(host)


def _name(host: int, new: str, staging: int, number: int, journal: _Journal) -> None:
    """Give a staged file its name: by a copy, which is called `new` until it is whole."""
    path = journal.files[number]
    with _folder(host, path) as (folder, last):
        with contextlib.suppress(FileNotFoundError):  # of a process that was killed
            os.unlink(new, dir_fd=folder)
        target = os.open(new, _WRITE, 0o666, dir_fd=folder)
        try:
            with os.fdopen(target, "wb") as file:
                _take_after(host, path, target)
                if not _is_staged(staging, number, journal.digests[number], file):
                    raise _changed(number)
                file.flush()
                os.fsync(target)
            os.rename(new, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        os.fsync(folder)
    os.unlink(str(number), dir_fd=staging)


def _is_staged(staging: int, number: int, digest: bytes, copy: BinaryIO | None = None) -> bool:
    """Tell whether a file has not got its name yet; copy it. Raises SandboxError where it is not what was staged."""
    found = new_digest()
    try:
        source = open_file(staging, str(number))
    except FileNotFoundError:
        return False
    try:
        for data in content(source, os.fstat(source).st_size, str(number)):
            found.update(data)
            if copy is not None:
                copy.write(data)
    finally:
        os.close(source)
    if found.digest() != digest:
        raise _changed(number)
    return True


def _changed(number: int) -> SandboxError:
    return SandboxError(
        f"commit: what was staged as number {number} was changed by another process of this user",
        hint="no guest may be granted writing to the directory itself",
    )


def _delete(host: int, path: str, mark: Mark) -> None:
    found = look(host, path)
    with _folder(host, path) as (folder, last):
        if stat.S_ISDIR(found.st_mode):
            try:
                os.rmdir(last, dir_fd=folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # the host has put something there, or it is a new one
                    raise
        elif mark_of(found) == mark:
            os.unlink(last, dir_fd=folder)
        os.fsync(folder)


@contextlib.contextmanager
def _folder(host: int, path: str) -> Iterator[tuple[int, str]]:
    """Lend the directory above a name, and the name in it."""
    above, _, last = path.rpartition("/")
    folder = open_beneath(host, above or ".", DIRECTORY)
    try:
        yield folder, last
    finally:
        os.close(folder)


def _clear(host: int, name: str) -> None:
    """Remove a commit's own directory, the journal first: without it nothing is done again."""
    staging = open_beneath(host, name, DIRECTORY)
    try:
        for entry in sorted(os.listdir(staging), key=lambda entry: entry != _JOURNAL):
            os.unlink(entry, dir_fd=staging)
    finally:
        os.close(staging)
    os.rmdir(name, dir_fd=host)
    commit_record.forget(name)
