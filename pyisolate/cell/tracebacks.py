"""What a guest's errors look like: its own lines only, as the interpreter would print them at the end of a script."""

from __future__ import annotations

import fcntl
import linecache
import resource
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from ..hooks import paths
from ..hooks.active import may_read
from ..hooks.frames import CALLED
from ..native.frames import call_apart, untraced
from .meant_names import did_you_mean
from .source import PACKAGE

_getfd, _F_GETFD, _getrlimit = fcntl.fcntl, fcntl.F_GETFD, resource.getrlimit
#: What `run -m` puts around a module (cli/project.py).
_RUNNER = "<-m "
_LOOP = ("/asyncio/runners.py", "/asyncio/base_events.py")


def traceback_text(error: BaseException, *, chain: bool = True) -> str:
    """Format a traceback without this package's frames and the import machinery's; with `chain`, the causes too."""
    summary = traceback.TracebackException.from_exception(error, lookup_lines=False, compact=True)
    _as_of_a_guest(summary, error, unread=_is_table_full())
    return "".join(summary.format(chain=chain))


def plain_traceback(error: BaseException, message: str) -> str:
    """Format the guest's frames without the interpreter's library, so without lines of source, causes and notes."""
    lines, trace = ["Traceback (most recent call last):\n"], _guests_part(error)
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n')
        trace = trace.tb_next
    return f"{''.join(lines)}{type(error).__qualname__}: {message}\n"


def _as_of_a_guest(summary: traceback.TracebackException, error: BaseException, *, unread: bool) -> None:
    """Drop the frames that are not the guest's, and add the name that was probably meant, all along the chain.

    `unread`: no source is opened for its lines.
    """
    seen: set[int] = set()
    waiting: list[tuple[traceback.TracebackException | None, BaseException | None]] = [(summary, error)]
    while waiting:
        one, of = waiting.pop()
        if one is None or of is None or id(one) in seen:
            continue
        seen.add(id(one))
        kept = _guests(one.stack)
        one.stack = traceback.StackSummary.from_list(
            [_without_line(frame) if unread or _is_hidden(frame.filename) else frame for frame in kept]
        )
        if meant := did_you_mean(of):
            one._str += meant  # type: ignore[attr-defined]  # noqa: SLF001 - where 3.12 adds it
        waiting += [(one.__cause__, of.__cause__), (one.__context__, of.__context__)]
        waiting += zip(one.exceptions or (), getattr(of, "exceptions", ()), strict=False)


def _is_table_full() -> bool:
    """Tell whether this process can open nothing more: an attempt would be one more refusal, seemingly the guest's."""
    for number in range(_getrlimit(resource.RLIMIT_NOFILE)[0]):
        try:
            _getfd(number, _F_GETFD)
        except OSError:
            return False
    return True


def _is_hidden(filename: str) -> bool:
    """Tell whether no rule lets a frame's file be read: to look for it would be an event, seemingly the guest's."""
    file = paths.reached(filename) if filename.startswith("/") else None
    return file is not None and not may_read(file)


def _without_line(frame: traceback.FrameSummary) -> traceback.FrameSummary:
    """Return a frame whose line is not looked for, unless its source was read before."""
    if len(linecache.cache.get(frame.filename, ())) > 1:  # one item: the loader that would read it
        return frame
    return traceback.FrameSummary(frame.filename, frame.lineno, frame.name, lookup_line=False, line="")


def _guests(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Return the guest's frames: none of this package, of the import machinery, or of the loop that is run for it."""
    kept, ours = [], False
    for frame in stack:
        name = frame.filename
        ours = name.startswith((PACKAGE, "<frozen importlib")) or (ours and name.endswith(_LOOP))
        if not ours and name != CALLED and not name.startswith(_RUNNER):
            kept.append(frame)
    return kept


def print_errors_of_threads() -> None:
    """Have what ends a thread, or cannot be raised, printed with the guest's own lines.

    The interpreter's hooks look for them in files of the sources' names, all along the import path.
    """
    threading.excepthook = untraced(_of_thread, threading.excepthook, name="excepthook", module="threading")
    sys.unraisablehook = untraced(_unraisable, sys.unraisablehook)


def _of_thread(args: Any) -> None:
    if args.exc_type is not SystemExit:
        name = threading.get_ident() if args.thread is None else args.thread.name
        _print(f"Exception in thread {name}:\n", args.exc_value)


def _unraisable(args: Any) -> None:
    of = "" if args.object is None else f" {args.object!r}"
    _print(f"{args.err_msg or 'Exception ignored in'}:{of}\n", args.exc_value, chain=False)


def _print(heading: str, error: BaseException | None, *, chain: bool = True) -> None:
    if sys.stderr is not None:
        sys.stderr.write(heading + ("" if error is None else traceback_text(error, chain=chain)))
        sys.stderr.flush()


def call_excepthook(error: BaseException) -> bool:
    """Call the hook that a script has put in the place of the interpreter's, as that does at a script's end.

    Returns whether there is one: the error has then been shown. A hook that raises is shown with the error.
    """
    if sys.excepthook is sys.__excepthook__ or isinstance(error, SystemExit):
        return False
    try:
        call_apart(sys.excepthook, (type(error), error, _guests_part(error)))
    except SystemExit:
        raise
    except BaseException as raised:
        raised.__context__ = None  # the error that the hook was called for is shown below
        _print("Error in sys.excepthook:\n", raised)
        _print("\nOriginal exception was:\n", error)
    return True


def keep_last(error: BaseException) -> None:
    """Put an error where a prompt puts one that nothing caught, with the guest's frames: `pdb.pm` looks there."""
    trace = error.__traceback__ = _guests_part(error)
    sys.__dict__.update(last_type=type(error), last_value=error, last_traceback=trace)
    if sys.version_info >= (3, 12):
        sys.last_exc = error


def _guests_part(error: BaseException) -> TracebackType | None:
    """Return an error's traceback from the guest's outermost frame on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
        trace = trace.tb_next
    return trace
