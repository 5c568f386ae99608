"""Read audit logs: complete events only, across rotations, and as they come."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import msgspec

from ..event import DenialEvent
from .audit import backups_of

_CHUNK = 1 << 20
#: No event is longer: text fields are capped well below it. A longer line is not ours and is not held in memory.
_LINE_LIMIT = 1 << 20

_decoder = msgspec.json.Decoder(DenialEvent)


def parse_line(line: bytes) -> DenialEvent | None:
    """Return the event of one line, or None if it is not a complete event."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def read_events(
    path: str | os.PathLike[str], *, rotated: bool = True, on_other: Callable[[], object] = lambda: None
) -> Iterator[DenialEvent]:
    """Yield the events of a log, oldest first, `rotated` files included.

    Torn and foreign lines are left out; `on_other` is called for each.
    """
    names = [*(backups_of(path) if rotated else ()), os.fspath(path)]
    opened = False
    for name in names:
        try:
            with open(name, "rb", buffering=0) as file:
                opened = True
                for line in _lines(file.fileno()):
                    event = parse_line(line)
                    if event is not None:
                        yield event
                    else:
                        on_other()
        except FileNotFoundError:
            continue  # rotated away between the listing and the opening
    if not opened:
        raise FileNotFoundError(f"audit log, on {os.fspath(path)}: no such file. Hint: AuditLog(path) writes one")


def follow_events(
    path: str | os.PathLike[str], *, from_start: bool = False, poll_s: float = 0.1, timeout: float | None = None
) -> Iterator[DenialEvent]:
    """Yield events as they are written, across rotations and deletions; end after `timeout` quiet seconds."""
    tail = _Tail(os.fspath(path), from_start=from_start)
    quiet_since = time.monotonic()
    try:
        while True:
            lines = tail.read()
            for line in lines:
                event = parse_line(line)
                if event is not None:
                    quiet_since = time.monotonic()
                    yield event
            if lines:
                continue
            if timeout is not None and time.monotonic() - quiet_since >= timeout:
                return
            time.sleep(poll_s)
    finally:
        tail.close()


class _Tail:
    """Reads on in a file, and moves to its successor once nothing more can come to the old one.

    The successor may have been rotated away, too: it is the first of the rotated files that is newer.
    """

    def __init__(self, path: str, *, from_start: bool) -> None:
        self._path = os.path.abspath(path)
        self._fd = -1
        self._rest = b""
        #: name of the newest rotated file that is no newer than the one that is read
        self._passed = ""
        if self._open(self._path):
            self._passed = self._own_name() or max(backups_of(self._path), default="")
            if not from_start:
                os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> list[bytes]:
        if self._fd < 0 and not self._open_next():
            return []
        replaced = self._replaced()  # asked before the last read, so that nothing written until then is missed
        data = os.read(self._fd, _CHUNK)
        if data:
            return self._split(data)
        if replaced:
            self._passed = self._own_name() or self._passed
            self.close()
            self._rest = b""
            self._open_next()
        return []

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open_next(self) -> bool:
        while True:
            found = self._newer()
            if not self._open(found[0] if found else self._path):
                if not found:
                    return False
                self._passed = found[0]  # removed since: the oldest are
            elif found or not (missed := self._newer()) or missed[0] == self._own_name():
                return True  # else one was rotated away between the listing and the opening
            else:
                self.close()

    def _newer(self) -> list[str]:
        return [name for name in backups_of(self._path) if name > self._passed]

    def _own_name(self) -> str | None:
        """Return the name of the rotated file that is read; None where it is none, or is there no more."""
        for name in reversed(backups_of(self._path)):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(name), os.fstat(self._fd)):
                    return name
        return None

    def _open(self, path: str) -> bool:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _replaced(self) -> bool:
        ours = os.fstat(self._fd)
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False  # not yet: a writer that still holds the old file may write on
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)

    def _split(self, data: bytes) -> list[bytes]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= _LINE_LIMIT else b""
        return lines


def _lines(descriptor: int) -> Iterator[bytes]:
    rest = b""
    while data := os.read(descriptor, _CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if len(rest) > _LINE_LIMIT:
            rest = b""
    if rest:
        yield rest  # complete but for its newline, or torn: parsing tells
