"""What a program as guest writes, as a file of the host's that is read while it comes."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import IO, Any

from .result import BytesCallback, OutputCallback


class Received(io.RawIOBase):
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

    def close(self) -> None:
        """Throw away what comes; wakes a reader."""
        super().close()
        with self._changed:
            self._data.clear()
            self._changed.notify_all()

    def as_file(self, *, text: bool) -> IO[Any]:
        """Return it with a buffer: bytes, or text in which what is no UTF-8 reads `\\xff`."""
        buffered = io.BufferedReader(self)
        return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace") if text else buffered


def writes_to(sink: Any) -> OutputCallback:
    """Return what passes output on to a file of the host's, as it comes. Raises TypeError for what is no file."""
    write, flush = getattr(sink, "write", None), getattr(sink, "flush", None)
    if not callable(write):
        raise TypeError(
            f"popen: output: must be PIPE, DEVNULL or a file, not {type(sink).__name__}. Hint: os.fdopen makes a file"
        )

    def pass_on(data: Any) -> None:
        write(data)
        if callable(flush):
            flush()

    passing: Callable[[Any], None] = pass_on
    return passing if isinstance(sink, io.TextIOBase) else BytesCallback(passing)
