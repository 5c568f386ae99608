"""Which allowed operation did the kernel then refuse? Ties an OSError to the broker's last answer on its thread."""

from __future__ import annotations

import errno
import opcode
import sys
from _thread import get_ident
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from . import frames, paths
from .operation import Operation

#: errno values by which a Linux security mechanism refuses (errno(3)).
REFUSALS = frozenset({errno.EACCES, errno.EPERM})
#: The C members themselves: a guest's subclass may override the attributes.
errno_of: Callable[[OSError], int | None] = vars(OSError)["errno"].__get__
_filename, _filename2 = vars(OSError)["filename"].__get__, vars(OSError)["filename2"].__get__
#: Threads remembered at most; identities are reused, so this only bounds a guest that leaks threads.
_THREADS = 4096
_RAISE = opcode.opmap["RAISE_VARARGS"]
#: Capabilities whose errors carry no file name (socket(7), fork(2), kill(2)).
_NAMELESS = ("net.", "process.", "ipc.", "random.", "kernel.", "memory.")


_Noted = tuple[Sequence[Operation], tuple[Any, ...], str, int]


class LastAllowed:
    """Per thread, what the broker last let through: operations, arguments as given, system call."""

    def __init__(self) -> None:
        self._by_thread: dict[int, _Noted] = {}

    def remember(self, operations: Sequence[Operation], args: tuple[Any, ...], syscall: str, sequence: int) -> None:
        """Note an allowed operation. Keeps text only: holding a guest's object would change when it is closed.

        `sequence` is 0 for an audit event: its number is then still the thread's last.
        """
        if len(self._by_thread) >= _THREADS:
            self._by_thread.clear()
        named = tuple([value for value in args[:2] if type(value) is str])
        self._by_thread[get_ident()] = (operations, named, syscall, sequence)

    def forget(self) -> None:
        """Drop this thread's note: the next error is about something else."""
        self._by_thread.pop(get_ident(), None)

    def match(self, error: OSError) -> tuple[Operation, str, int] | None:
        """Return operation, system call and sequence of what the kernel refused with `error`; None when unrelated."""
        if errno_of(error) not in REFUSALS:
            return None
        noted = self._by_thread.get(get_ident())
        if noted is None:
            return None
        operations, named, syscall, sequence = noted
        names = [name for name in (paths.text(_filename(error)), paths.text(_filename2(error))) if name is not None]
        if not names:
            nameless = [one for one in operations if one[0].value.startswith(_NAMELESS)]
            return (nameless[0], syscall, sequence) if nameless else None
        for name in names:
            if name in named:
                return operations[0], syscall, sequence
            reached = paths.reached(name)
            for operation in operations:
                if reached is not None and operation[1] == reached:
                    return operation, syscall, sequence
        return None


def raised_by_guest(error: BaseException) -> bool:
    """Return whether a `raise` statement of guest code made an exception: no call into native code refused it.

    The last entry of a traceback is where the exception came to be, also after it was caught and raised again.
    """
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return raises(trace.tb_frame.f_code, trace.tb_lasti)


def raises(code: CodeType, offset: int) -> bool:
    """Return whether the instruction at `offset` is a `raise` statement of guest code."""
    if code.co_filename.startswith(frames.LIBRARY):
        return False
    return 0 <= offset < len(code.co_code) and code.co_code[offset] == _RAISE


def watch_raises(seen: Callable[[OSError], None]) -> bool:
    """Call `seen` for every OSError that Python code sees raised, caught or not; False before 3.12.

    sys.monitoring's RAISE event fires again in each frame that an exception passes through.
    """
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        return False
    tool = next((number for number in (4, 3) if monitoring.get_tool(number) is None), None)
    if tool is None:
        return False

    def on_raise(code: CodeType, offset: int, error: BaseException) -> None:
        if isinstance(error, OSError) and errno_of(error) in REFUSALS and not raises(code, offset):
            seen(error)

    monitoring.use_tool_id(tool, "pyisolate")
    monitoring.register_callback(tool, monitoring.events.RAISE, on_raise)
    monitoring.set_events(tool, monitoring.events.RAISE)
    return True
