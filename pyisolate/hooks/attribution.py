"""Which allowed operation did the kernel then refuse? Ties an OSError to the broker's last answer on its thread."""

from __future__ import annotations

import errno
import opcode
import sys
from _thread import get_ident
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, TypeGuard, cast

from ..capability import Capability
from ..errors import PolicyError, RefusedImport
from ..records import ALSO_LIMIT, Wanted
from . import frames, paths
from .operation import Operation

#: errno values by which a Linux security mechanism refuses (errno(3)).
REFUSALS = frozenset({errno.EACCES, errno.EPERM})
#: The C members themselves: a guest's subclass may override the attributes.
_errno_of: Callable[[OSError], object] = vars(OSError)["errno"].__get__
_filename, _filename2 = vars(OSError)["filename"].__get__, vars(OSError)["filename2"].__get__
#: Threads remembered at most; identities are reused, so this only bounds a guest that leaks threads.
_THREADS = 4096
#: What a C `int` holds, as the number of a system call's error is.
_INT_MAX = 0x7FFF_FFFF
#: How many errors are looked at, from one to what it was raised for.
_CHAIN = 8
_RAISE = opcode.opmap["RAISE_VARARGS"]
#: Families whose errors carry no file name (socket(7), fork(2), kill(2)).
_NAMELESS = frozenset({"net", "process", "ipc", "random", "kernel", "memory"})


#: Frame, code and instruction of a call, as numbers: to hold a frame would keep a guest's objects alive.
_Place = tuple[int, int, int]
_Noted = tuple[Sequence[Operation], tuple[Any, ...], str, int, "_Place | None"]


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
        place = None
        if operations[0][0].family in _NAMELESS and (frame := frames.caller()) is not None:
            place = (id(frame), id(frame.f_code), frame.f_lasti)
        self._by_thread[get_ident()] = (operations, named, syscall, sequence, place)

    def forget(self) -> None:
        """Drop this thread's note: the next error is about something else."""
        self._by_thread.pop(get_ident(), None)

    def match(self, error: OSError) -> tuple[Operation, str, int, tuple[Wanted, ...]] | None:
        """Return operation, system call and sequence of what the kernel refused with `error`; None when unrelated.

        And what else the same call asked of that file: the kernel may have refused any of it.

        An error without a file name must come out of the very call that asked: any other call may be one that no
        hook asks about, and the kernel's own record is its event.
        """
        found = self._noted_for(error) if number_of(error) in REFUSALS else None
        if found is None:
            return None
        operation, syscall, sequence = found
        asked = self._by_thread[get_ident()][0]
        also = [
            one[:2] for one in asked if one[1] == operation[1] and one[0] is not operation[0] and one[0].family == "fs"
        ]
        return operation, syscall, sequence, tuple(also[:ALSO_LIMIT])

    def made_no_process(self, error: BaseException) -> bool:
        """Tell whether an error is EAGAIN of an allowed call for a process: fork(2) says so of a full table.

        A socket that does not block has the same errno.
        """
        if not is_os_error(error) or number_of(error) != errno.EAGAIN:
            return False
        found = self._noted_for(error)
        return found is not None and found[0][0] in (Capability.PROCESS_FORK, Capability.PROCESS_EXEC)

    def _noted_for(self, error: OSError) -> tuple[Operation, str, int] | None:
        noted = self._by_thread.get(get_ident())
        if noted is None:
            return None
        operations, named, syscall, sequence, place = noted
        names = [name for name in (paths.text(_filename(error)), paths.text(_filename2(error))) if name is not None]
        if not names:
            if place is None or place != _called_at(error):
                return None
            nameless = [one for one in operations if one[0].family in _NAMELESS]
            return (nameless[0], syscall, sequence) if nameless else None
        for name in names:
            if name in named:
                return operations[0], syscall, sequence
            reached = paths.reached(name)
            for operation in operations:
                if reached is not None and operation[1] == reached:
                    return operation, syscall, sequence
        return None


def is_os_error(error: BaseException) -> TypeGuard[OSError]:
    """Tell whether an exception is an OSError, whatever a guest's class says of itself."""
    return issubclass(type(error), OSError)


def number_of(error: BaseException) -> int | None:
    """Return the error number of a system call that an exception carries; None where it carries none."""
    raw = _errno_of(error) if is_os_error(error) else None
    if not issubclass(type(raw), int):
        return None
    number = int.__int__(cast("int", raw))  # what a guest's own class of numbers does not change
    return number if abs(number) <= _INT_MAX else None


def raised_by_guest(error: BaseException) -> bool:
    """Return whether a `raise` statement of guest code made an exception: no call into native code refused it."""
    made = _made_at(error)
    return made is not None and not made[0].co_filename.startswith(frames.LIBRARY) and raises(*made)


def raised_by_library(error: BaseException) -> bool:
    """Return whether a `raise` statement of a library made an exception, of its own or in place of another."""
    made = _made_at(error)
    return made is not None and made[0].co_filename.startswith(frames.LIBRARY) and raises(*made)


def stood_for(error: BaseException) -> BaseException:
    """Return the error for which a library gave up with one of its own, of the same kind and in its own words.

    That is a refused import for an ImportError, and for an OSError that a library's `raise` made the refusal that it
    followed. The error itself where it stands for no other.
    """
    found = error
    for _ in range(_CHAIN):
        if isinstance(found, (RefusedImport, PolicyError)):
            return found
        before = found.__cause__ or found.__context__
        of_import = isinstance(found, ImportError) and isinstance(before, ImportError)
        if before is None or not (
            of_import or (is_os_error(found) and _is_refusal(before) and raised_by_library(found))
        ):
            break
        found = before
    return error if isinstance(found, ImportError) else found


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, PolicyError) or number_of(error) in REFUSALS


def _made_at(error: BaseException) -> tuple[CodeType, int] | None:
    """Return the code and the instruction where an exception came to be, also after it was caught and raised again.

    That is the last entry of its traceback.
    """
    trace = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code, trace.tb_lasti


def _called_at(error: BaseException) -> _Place | None:
    """Return the call outside this layer from which an exception came, as `LastAllowed.remember` notes it."""
    trace, found = error.__traceback__, None
    while trace is not None:
        if not frames.is_hook(trace.tb_frame):
            found = (id(trace.tb_frame), id(trace.tb_frame.f_code), trace.tb_lasti)
        trace = trace.tb_next
    return found


def raises(code: CodeType, offset: int) -> bool:
    """Return whether the instruction at `offset` is a `raise` statement."""
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
        if is_os_error(error) and number_of(error) in REFUSALS and not raises(code, offset):
            seen(error)

    monitoring.use_tool_id(tool, "pyisolate")
    monitoring.register_callback(tool, monitoring.events.RAISE, on_raise)
    monitoring.set_events(tool, monitoring.events.RAISE)
    return True
