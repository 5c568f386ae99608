"""The audit log: JSON Lines, one event a line, each line one write to a file opened with O_APPEND.

A line is complete or it is no event: what a kill or a full disk cut short is fenced off by a newline before the next
line, and no reader takes it for an event. Lines hold names only: no contents, tokens or environment reach an event.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
import time
from collections import deque
from typing import Literal

from ...errors import SandboxError
from ...native.file_lock import lock_within
from ...native.forked import renew
from ..event import DenialEvent
from ..metrics import METRICS, Metrics

_log = logging.getLogger("pyisolate.telemetry")

#: Lines kept while the disk refuses them; older ones are lost, and counted.
BACKLOG_LINES = 1000
MODE = 0o600
#: Between two warnings that the file cannot be moved (seconds).
_LOG_INTERVAL_S = 60.0

FsyncPolicy = Literal["never", "interval", "always"]


class AuditLog:
    """An `EventSink` that appends to `path`. Thread-safe; several processes may share one file.

    Rotates at `max_bytes` and `max_age_s` (None: never) to `path.<UTC time>`, keeping `backups` of them. `fsync`:
    `never` leaves it to the kernel (survives a killed process), `interval` forces data out at most once in
    `fsync_interval_s`, `always` after each line (survives a power cut). Raises SandboxError if `path` cannot be opened.
    """

    immediate = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = 64 << 20,
        max_age_s: float | None = None,
        backups: int = 5,
        fsync: FsyncPolicy = "interval",
        fsync_interval_s: float = 1.0,
        metrics: Metrics = METRICS,
    ) -> None:
        if fsync not in ("never", "interval", "always"):
            raise ValueError(f"audit log, fsync {fsync!r}: it must be never, interval or always")
        if (max_bytes is not None and max_bytes < 1) or backups < 0:
            raise ValueError("audit log: max_bytes must be positive, backups not negative")
        self.path = os.path.abspath(path)
        self._max_bytes, self._max_age_s, self._backups = max_bytes, max_age_s, backups
        self._fsync, self._fsync_interval_s = fsync, fsync_interval_s
        self._metrics = metrics
        self._lock = threading.Lock()
        self._fd = -1
        self._identity = (0, 0)
        self._opened_at = self._synced_at = 0.0
        self._said_locked_at = -_LOG_INTERVAL_S
        self._size = 0
        self._backlog: deque[bytes] = deque()
        self._closed = False
        #: lines given up on, because the disk refused them for too long
        self.lost = 0
        try:
            self._open()
        except OSError as error:
            raise SandboxError(
                operation="audit log",
                subject=str(self.path),
                cause=os.strerror(error.errno or 0),
                errno=error.errno,
                hint="name a regular file (no symlink) in a directory that this user may write",
            ) from error
        renew(self)

    def renew_after_fork(self) -> None:
        """Leave the backlog to the parent, and open the file again: a lock on the shared descriptor is the parent's."""
        self._lock = threading.Lock()
        self._backlog.clear()
        self._identity = (0, 0)

    def emit(self, event: DenialEvent) -> None:
        """Append one event. Raises OSError when it could not be written; it is then tried again with the next."""
        line = event.to_json().encode() + b"\n"
        with self._lock:
            if self._closed:
                raise SandboxError(f"audit log, on {self.path}: it is closed")
            self._backlog.append(line)
            if len(self._backlog) > BACKLOG_LINES:
                self._backlog.popleft()
                self._give_up(1)
            self._write_backlog()
            self._sync()

    def flush(self) -> None:
        """Write what waits and force it to the disk."""
        with self._lock:
            if self._closed:
                return
            self._write_backlog()
            os.fsync(self._fd)

    def close(self) -> None:
        """Flush as far as possible and close. Idempotent."""
        with contextlib.suppress(OSError):
            self.flush()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._give_up(len(self._backlog))
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1

    def _open(self) -> None:
        # O_NONBLOCK: a FIFO in this place must be an error, not a hang. O_NOFOLLOW: no link redirects the log.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, MODE)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if stat.S_IMODE(info.st_mode) != MODE and info.st_uid == os.geteuid():
                os.fchmod(descriptor, MODE)
        except BaseException:
            os.close(descriptor)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._identity, self._size = descriptor, (info.st_dev, info.st_ino), 0
        self._opened_at = time.time() if info.st_size == 0 else info.st_ctime

    def _ensure_open(self) -> None:
        """Follow the path: the file may have been deleted, moved, or rotated by another process."""
        try:
            info = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            self._open()
            return
        if self._fd < 0 or (info.st_dev, info.st_ino) != self._identity:
            self._open()
            info = os.fstat(self._fd)
        full = self._max_bytes is not None and info.st_size >= self._max_bytes
        old = self._max_age_s is not None and info.st_size and time.time() - self._opened_at >= self._max_age_s
        if full or old:
            self._rotate()

    def _write_backlog(self) -> None:
        while self._backlog:
            self._ensure_open()
            self._write(self._backlog[0])
            self._backlog.popleft()

    def _write(self, line: bytes) -> None:
        data = b"\n" + line if self._ends_torn() else line
        written = os.write(self._fd, data)
        if written == len(data):
            self._size = -1 if self._size < 0 else self._size + written
            return
        raise OSError(errno.ENOSPC, "short write: the line was cut off and will be written again", self.path)

    def _ends_torn(self) -> bool:
        """Tell whether the file ends in half a line: of this process, or of one that was killed while it wrote."""
        size = os.fstat(self._fd).st_size
        if size == self._size:
            return False  # it ends in the line that we wrote
        torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        self._size = -1 if torn else size
        return torn

    def _give_up(self, lines: int) -> None:
        self.lost += lines
        self._metrics.lost.add(("audit",), lines)

    def _sync(self) -> None:
        if self._fsync == "never":
            return
        now = time.monotonic()
        if self._fsync == "always" or now - self._synced_at >= self._fsync_interval_s:
            self._synced_at = now
            os.fdatasync(self._fd)

    def _rotate(self) -> None:
        # One of the processes that share the file moves it, the others follow: with the next line, for who may read the
        # file can hold its lock for ever.
        if not lock_within(self._fd, 0.0):
            self._say_locked()
            return
        try:
            info = os.stat(self.path, follow_symlinks=False)
            if (info.st_dev, info.st_ino) == self._identity:
                if self._fsync != "never":
                    os.fdatasync(self._fd)
                os.rename(self.path, self._backup_name())
                self._drop_old_backups()
        except FileNotFoundError:
            pass
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._open()

    def _say_locked(self) -> None:
        now = time.monotonic()
        if now - self._said_locked_at >= _LOG_INTERVAL_S:
            self._said_locked_at = now
            _log.warning(
                "audit log %s is due for rotation and grows: another process holds its lock (flock)", self.path
            )

    def _backup_name(self) -> str:
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1_000_000_000))
        return f"{self.path}.{stamp}.{now % 1_000_000_000:09d}"

    def _drop_old_backups(self) -> None:
        found = backups_of(self.path)
        for name in found[: max(0, len(found) - self._backups)]:
            with contextlib.suppress(OSError):
                os.unlink(name)


def backups_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the rotated files of a log, oldest first."""
    directory, name = os.path.split(os.path.abspath(path))
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, n) for n in sorted(names) if n.startswith(name + ".") and _is_stamp(n[len(name) :])]


def _is_stamp(suffix: str) -> bool:
    parts = suffix.split(".")
    return len(parts) == 3 and len(parts[1]) == 15 and parts[2].isdigit()
