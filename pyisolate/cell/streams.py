"""What a guest reads and writes through: its standard streams, and the files that it left open."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from os import getpid  # the function itself: a guest may put another in its place
from typing import NoReturn, TypeVar

from ..native.channel import is_free, lowest_free, next_writer
from ..native.frames import call_apart, untraced

#: A piece of a line is passed on at once after this long a pause, and with the next one before (seconds).
_PAUSE_S = 0.02
_Stream = TypeVar("_Stream", bound=io.TextIOWrapper)
_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class _Text(io.TextIOWrapper):
    """A text stream that passes on every line, and pieces of one unless they come in a burst."""

    _passed_on = 0.0

    def write(self, text: str) -> int:
        written = super().write(text)
        now = time.monotonic()
        if now - self._passed_on > _PAUSE_S:
            self._passed_on = now
            self.flush()
        return written


class _Pipe(io.FileIO):
    """A standard stream's descriptor. When it is opened, a zygote has a device there, which can be seeked."""

    def seekable(self) -> bool:
        """Say no, as of a pipe: what can be seeked is asked for its position when its encoding changes."""
        return False


def open_streams() -> None:
    """Give the guest text streams over descriptors 0, 1 and 2."""
    sys.stdin = _input()
    sys.stdout = _output(1)
    sys.stderr = _output(2)
    sys.__dict__.update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def _input() -> io.TextIOWrapper:
    raw = io.FileIO(0, "rb", closefd=False)
    text = io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8", newline="\n")  # a "\r" is input (create_stdio)
    return _named(text, raw, "<stdin>", "r")


def _named(stream: _Stream, raw: io.FileIO, name: str, mode: str) -> _Stream:
    """Give a stream the attributes that it has where the interpreter itself opens it (Python/pylifecycle.c)."""
    raw.name, stream.mode = name, mode  # type: ignore[misc] # typed as read-only
    return stream


class GivenStdin:
    """Descriptor 0 and `sys.stdin` of a request that brings its own input. After it there is nothing to read."""

    def give(self, descriptors: list[int]) -> None:
        """Read from this descriptor. Raises OSError where the guest had no room for it (`limits.open_files`)."""
        if not descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "<stdin>")
        self._replace(descriptors[0])

    def take_back(self) -> None:
        """Let what was left unread not be the next request's input."""
        with contextlib.suppress(OSError):
            empty, end = os.pipe()
            os.close(end)
            self._replace(empty)

    def reopen(self) -> None:
        """Undo what `exit` and `quit` do besides: they close `sys.stdin`, and a later request may ask for input."""
        if getattr(sys.__stdin__, "closed", False):
            sys.stdin = sys.__stdin__ = _input()  # type: ignore[misc] # typed as final

    def _replace(self, descriptor: int) -> None:
        if descriptor != 0:  # the guest may have closed its own
            os.dup2(descriptor, 0)
            os.close(descriptor)
        sys.stdin = sys.__stdin__ = _input()  # type: ignore[misc] # typed as final


def _output(descriptor: int) -> _Text:
    raw = _Pipe(descriptor, "wb", closefd=False)
    stream = _Text(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
    stream.write = untraced(stream.write, io.TextIOWrapper.write)  # type: ignore[method-assign] # who steps into `print` finds no line there
    return _named(stream, raw, "<stdout>" if descriptor == 1 else "<stderr>", "w")


def flush_before_exit(owner: int, report: Callable[[], None]) -> None:
    """Let `os._exit` of process `owner`, not of its children, pass on what was written: the host reads it later.

    Its children `report` what they were refused and summed up: the host learns of their end with that of the cell.
    """
    leave = os._exit

    def _exit(status: int) -> NoReturn:
        if getpid() == owner:
            flush_streams()
        else:
            with contextlib.suppress(Exception):  # a report that fails does not keep it from ending
                report()
        leave(status)

    _exit.__module__, _exit.__qualname__ = "os", "_exit"  # by which it is pickled
    os._exit = _exit


def flush_streams() -> None:
    """Pass on what was written to stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the guest closed or replaced it: what it lost is its own


class OpenFiles:
    """Writes out what guests left in buffers, at the end of a request: a sandbox is killed when it is closed."""

    def __init__(self) -> None:
        self._next = -1
        #: the cell's own descriptors above it that are open for writing
        self._own: list[int] = []

    def begin(self) -> None:
        """No guest code has run in this process: the descriptors that are open now are not the guest's."""
        self._next, self._own = lowest_free(), []
        while self._next >= 0 and (own := self._new_writer()) >= 0:
            self._own.append(own)

    def flush(self) -> None:
        """Flush every file that is open for writing. Costs a system call where no descriptor is new.

        To look for them takes tens of milliseconds in a guest of many objects, and matplotlib keeps its font open.
        """
        if self._next >= 0 and (is_free(self._next) or self._new_writer() < 0):
            return
        standard = {id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)}
        for kind in _FILES:  # text first: it writes into the buffers below
            for found in gc.get_objects():
                if type(found) is kind and id(found) not in standard:
                    with contextlib.suppress(OSError, ValueError):
                        found.flush()

    def _new_writer(self) -> int:
        number = next_writer(self._next)
        while number in self._own:
            number = next_writer(number + 1)
        return number


def finish_script(before_exit: Callable[[], None]) -> None:
    """Do what the interpreter does at a script's end: wait for its threads, run what `atexit` holds.

    `before_exit` is called between the two: what `atexit` holds takes apart what a script has made.
    """
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread() and thread is not threading.current_thread():
            thread.join()
    for callback in list(getattr(threading, "_threading_atexits", ())):
        call_apart(callback)
    before_exit()
    call_apart(atexit._run_exitfuncs)  # noqa: SLF001 - what Py_Finalize calls


def exit_code(error: SystemExit) -> int:
    """Return what the process would have ended with, 0 to 255; no C int counts as -1 (Python/pylifecycle.c)."""
    if not isinstance(error.code, int):
        return 0 if error.code is None else 1
    code = int(error.code)
    return (code if -(1 << 31) <= code < 1 << 31 else -1) & 0xFF
