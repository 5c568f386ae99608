"""A forked child of a probe, and what it has to say: its answer, or what kept it from one, also where memory is short.

A probe finds that something is refused, or that it is not there. A child that could not even try has found neither,
and must not pass for one that did: `heard` raises what the child met, with its errno.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
from collections.abc import Callable

from ..native import process
from ..native.result import cause_in_host

#: What a new thread maps (pthread_create(3), RLIMIT_STACK).
_STACK_BYTES = 8 << 20
_ANSWER, _ERROR = b"=", b"!"
#: Made before any fork: a child sends it without memory.
_OUT_OF_MEMORY = _ERROR + bytes((errno.ENOMEM,)) + b"out of memory"

#: How a process ends that gets no memory: by its interpreter's abort(3), by the kernel's choice, where its stack cannot
#: grow (getrlimit(2), RLIMIT_AS), or where a shared page cannot be had.
_ENDS_WITHOUT_MEMORY = frozenset((signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS))


class Child:
    """A child that runs `run` and ends, at the latest with the thread that made it. Ended and reaped by `end`, once.

    Raises OSError where it cannot be forked.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        self._ended = False
        self._status: int | None = None
        parent = os.getpid()
        self.pid = process.fork_probe()
        if self.pid == 0:
            try:
                process.end_with_parent(parent)
                run()
            finally:
                os._exit(0)

    def end(self) -> int | None:
        """End it; return its wait status, None where the host has reaped it."""
        if not self._ended:
            with contextlib.suppress(OSError):  # it may be gone, and ends by itself where this process may not kill
                os.kill(self.pid, signal.SIGKILL)
            self._status, self._ended = process.wait_ended(self.pid), True
        return self._status

    def heard(self, said: bytes) -> bytes:
        """Return the answer in what `say` wrote. Raises OSError: what kept the child from one, or how it ended."""
        if not said:
            status = self.end()
            text, number = ("it ended", None) if status is None else ending(os.waitstatus_to_exitcode(status))
            raise OSError(number or errno.ECHILD, f"the probe's child did not answer: {text}")
        if not said.startswith(_ERROR):
            return said[1:]
        raise OSError(said[1], f"the probe's child could not try: {said[2:].decode(errors='replace')}")


def say(descriptor: int, ask: Callable[[], bytes]) -> None:
    """In the child: write what `ask` returns, or what it raised."""
    try:
        _write_all(descriptor, _answer(ask))
    except MemoryError:
        os.write(descriptor, _OUT_OF_MEMORY)


def ending(exit_code: int) -> tuple[str, int | None]:
    """Say in words how a process ended (as `subprocess` has it), with ENOMEM where memory may be why."""
    if exit_code >= 0:
        text, short = f"it ended with exit status {exit_code}", exit_code == errno.ENOMEM
    else:
        text = f"it ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
        short = -exit_code in _ENDS_WITHOUT_MEMORY
    return (f"{text}, as where memory is short", errno.ENOMEM) if short else (text, None)


def _answer(ask: Callable[[], bytes]) -> bytes:
    try:
        return _ANSWER + ask()
    except MemoryError:
        raise
    except BaseException as error:
        text, number = cause_in_host(error) or (f"{type(error).__name__}: {error}", None)
        return _ERROR + bytes((number or 0,)) + text.encode(errors="backslashreplace")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def is_short_of_memory() -> bool:
    """Say whether this process cannot map now what the stack of a thread takes (8 MiB)."""
    try:
        mmap.mmap(-1, _STACK_BYTES).close()
    except (OSError, MemoryError):
        return True
    return False
