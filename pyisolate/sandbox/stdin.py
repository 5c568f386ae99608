"""What a request's guest reads as its stdin: a pipe of its own, which the host fills as the guest reads.

A descriptor of the host's never goes in: a socket can be written to, a terminal controlled, an offset moved.
"""

from __future__ import annotations

import io
import os
import select
import subprocess
import threading
from collections.abc import Callable
from typing import IO, Any

from ..native.threads import Thread

#: Text is sent as UTF-8; `subprocess.DEVNULL` is nothing. A file object with a descriptor, and a
#: descriptor, are read there, as `subprocess` does.
StdinSource = str | bytes | bytearray | memoryview | int | IO[str] | IO[bytes]

_PIECE_BYTES = 1 << 16
#: A source whose `read` does not return is left to its thread after this time (seconds).
_JOIN_TIMEOUT_S = 1.0


class Stdin:
    """A checked source: bytes that are here, a descriptor, or a file object without one."""

    def __init__(self, what: str, source: StdinSource) -> None:
        self.data, self.descriptor = b"", -1
        self._read: Callable[[int], Any] | None = None
        if isinstance(source, str):
            self.data = _encoded(what, source)
        elif isinstance(source, bytes | bytearray | memoryview):
            self.data = bytes(source)
        elif type(source) is int:
            os.fstat(source)
            self.descriptor = source
        elif not isinstance(source, int) and callable(getattr(source, "read", None)):
            self.descriptor = _descriptor(source)
            if self.descriptor < 0:
                self._read = source.read
        else:
            raise TypeError(f"{what}: must be text, bytes, a file or a descriptor, not {type(source).__name__}")

    @property
    def all_here(self) -> bool:
        """True where nothing has to be read from anywhere."""
        return self.descriptor < 0 and self._read is None

    def read(self) -> bytes:
        """Return the next piece of a descriptor or file object; nothing at its end."""
        if self._read is None:
            return os.read(self.descriptor, _PIECE_BYTES)
        piece = self._read(_PIECE_BYTES)
        return _encoded("stdin", piece) if isinstance(piece, str) else bytes(piece or b"")

    def open(self) -> IO[bytes]:
        """Return a binary file to read it from, for a guest in this process."""
        if self.descriptor >= 0:
            return os.fdopen(os.dup(self.descriptor), "rb")
        return io.BytesIO(self.data if self._read is None else b"".join(iter(self.read, b"")))


def check_stdin(what: str, source: StdinSource | None) -> Stdin | None:
    """Return what a guest shall read, None for nothing. Raises TypeError, ValueError, OSError (a closed descriptor)."""
    if type(source) is int and source in (subprocess.PIPE, subprocess.STDOUT):
        raise ValueError(f"{what}: no process would write to a pipe. Hint: give the text or bytes themselves")
    nothing = source is None or (type(source) is int and source == subprocess.DEVNULL)
    return None if nothing else Stdin(what, source)  # type: ignore[arg-type] # not None here


def _descriptor(source: Any) -> int:
    try:
        return int(source.fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return -1


def _encoded(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: holds a lone surrogate at {error.start}, which is no character") from None


class Feeding:
    """Gives the descriptor that goes to the guest, of a pipe that it fills until the end of the block.

    What fits is in it at once; for the rest a thread waits that serves no other request. The host keeps the reading end
    too: where SIGPIPE ends programs, a guest that closes its own must not end this one.
    """

    def __init__(self, stdin: Stdin) -> None:
        self._stdin = stdin
        self._error: Exception | None = None
        self._thread: Thread | None = None
        self._stop, self._lock = -1, threading.Lock()
        self._theirs, self._ours = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> list[int]:
        try:
            os.set_blocking(self._ours, False)
            left = _write(self._ours, memoryview(self._stdin.data))
            if left or not self._stdin.all_here:
                self._stop = os.eventfd(0, os.EFD_CLOEXEC)
                thread = Thread(target=self._feed, args=(left,), name="pyisolate-stdin")
                thread.start()
                self._thread = thread
            else:
                self._close_ours()
        except BaseException:
            self._close_ours()
            os.close(self._theirs)
            raise
        return [self._theirs]

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        with self._lock:
            if self._stop >= 0:
                os.eventfd_write(self._stop, 1)
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT_S)
        os.close(self._theirs)
        if self._error is not None and kind is None:
            raise self._error

    def _feed(self, left: memoryview) -> None:
        try:
            while True:
                while left:
                    if not self._wait(self._ours, select.POLLOUT):
                        return
                    left = _write(self._ours, left)
                if self._stdin.all_here:
                    return
                if self._stdin.descriptor >= 0 and not self._wait(self._stdin.descriptor, select.POLLIN):
                    return
                left = memoryview(self._stdin.read())
                if not left:
                    return
        except Exception as error:  # of the source: a guest that reads less must not pass for one that read all
            self._error = error
        finally:
            self._close_ours()

    def _wait(self, descriptor: int, events: int) -> bool:
        """Wait until a descriptor is ready; False where the request has ended."""
        poller = select.poll()
        poller.register(self._stop, select.POLLIN)
        poller.register(descriptor, events)
        return all(ready != self._stop for ready, _mask in poller.poll())

    def _close_ours(self) -> None:
        with self._lock:
            for descriptor in (self._ours, self._stop):
                if descriptor >= 0:
                    os.close(descriptor)
            self._ours = self._stop = -1


def _write(descriptor: int, data: memoryview) -> memoryview:
    """Write what fits; return the rest."""
    try:
        return data[os.write(descriptor, data) :] if data else data
    except BlockingIOError:
        return data
