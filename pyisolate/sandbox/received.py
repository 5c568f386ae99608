"""What a program as guest writes, as a file of the host's that is read while it comes."""

from __future__ import annotations

import abc
import codecs
import io
import subprocess
import threading
from typing import IO, Any

#: PIPE, DEVNULL, or a file that is written to as output comes; STDOUT for `stderr`.
OutputSink = int | IO[bytes] | IO[str]


class Sink(abc.ABC):
    """Where one stream of a program goes, as it comes, on a thread of the host."""

    @abc.abstractmethod
    def feed(self, data: bytes) -> None:
        """Take what came."""

    @abc.abstractmethod
    def end(self) -> None:
        """No more comes."""


class Received(io.RawIOBase, Sink):
    """Bytes that have come and were not read. `limits.output` bounds them; there is no descriptor to select on."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()
        self._ended = False
        self._changed = threading.Condition()

    def feed(self, data: bytes) -> None:
        """Add what came, and wake the reader."""
        with self._changed:
            if not self.closed:
                self._data += data
                self._changed.notify_all()

    def end(self) -> None:
        """Let the reader see the end of the file, after what has come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes and take them; 0 at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._data or self._ended or self.closed)
            view = memoryview(buffer).cast("B")
            taken = min(len(view), len(self._data))
            view[:taken] = self._data[:taken]
            del self._data[:taken]
            return taken

    def waiting(self) -> bytes:
        """Return what has come and was not read; it stays."""
        with self._changed:
            return bytes(self._data)

    def close(self) -> None:
        """Throw away what comes; wakes a reader."""
        super().close()
        with self._changed:
            self._data.clear()
            self._changed.notify_all()

    def as_file(self, encoding: str | None, errors: str | None) -> IO[Any]:
        """Return it with a buffer: text of an encoding, or bytes where there is none."""
        buffered = io.BufferedReader(self)
        return buffered if encoding is None else io.TextIOWrapper(buffered, encoding=encoding, errors=errors)


def come_so_far(file: IO[Any] | None) -> bytes | None:
    """Return what waits in a file of `Received.as_file` to be read; None for nothing."""
    buffered = file.buffer if isinstance(file, io.TextIOWrapper) else file
    raw = buffered.raw if isinstance(buffered, io.BufferedReader) else None
    return (raw.waiting() or None) if isinstance(raw, Received) else None


class _Nowhere(Sink):
    """Throws away what comes."""

    def feed(self, data: bytes) -> None:
        """Take what came."""

    def end(self) -> None:
        """No more comes."""


class _File(Sink):
    """Writes to a file of the host's: bytes, or text in which what is no UTF-8 reads `\\xff`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        text = isinstance(file, io.TextIOBase)
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if text else None

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._write(data if self._decoder is None else self._decoder.decode(data))

    def end(self) -> None:
        """No more comes."""
        if self._decoder is not None and (rest := self._decoder.decode(b"", final=True)):
            self._write(rest)

    def _write(self, data: Any) -> None:
        self._file.write(data)
        if callable(flush := getattr(self._file, "flush", None)):
            flush()


def sink_of(target: Any, what: str = "popen") -> Sink:
    """Return where output goes: DEVNULL, STDOUT, a file of the host's. Raises TypeError for what is none of them."""
    if isinstance(target, int) and target in (subprocess.DEVNULL, subprocess.STDOUT):
        return _Nowhere()
    if isinstance(target, Sink):
        return target
    if not callable(getattr(target, "write", None)):
        raise TypeError(
            f"{what}: output: must be PIPE, DEVNULL or a file, not {type(target).__name__}. Hint: os.fdopen makes one"
        )
    return _File(target)
