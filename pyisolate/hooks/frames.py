"""Whose code is running: the guest's, the interpreter's library, or this package.

Recognised by `co_filename`, which guest code can fake (`code.replace`): good for origins and for the import guard rail,
never for a decision that anything depends on.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/"
_HOOKS = os.path.dirname(os.path.abspath(__file__)) + "/"
_IMPORTLIB = "<frozen importlib"
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + "/"
#: They look through each directory of the import path, and into those that are archives.
_METADATA, _ZIPFILE = _STDLIB + "importlib/metadata/", _STDLIB + "zipfile"
#: It hands `open` a directory and an opener, whose own `os.open` says what is made.
_TEMPFILE = _STDLIB + "tempfile.py"
_PTY = _STDLIB + "pty.py"
_SUBPROCESS = _STDLIB + "subprocess.py"
#: ldconfig, gcc and ld; fc-list.
_TRY_PROGRAMS = ("/ctypes/util.py", "/matplotlib/font_manager.py")
_TARFILE = _STDLIB + "tarfile.py"
#: It imports the packages above a module before it looks for that, and goes on without them.
_RUNPY = "<frozen runpy>"
#: Import what their caller names, or call with it what imports: a thread's target.
_CARRIERS = frozenset(
    (
        _RUNPY,
        "<frozen importlib.util>",
        _STDLIB + "pkgutil.py",
        _STDLIB + "pydoc.py",
        _STDLIB + "logging/config.py",
        _STDLIB + "unittest/loader.py",
        _STDLIB + "importlib/resources/_common.py",
        _STDLIB + "importlib/resources/_legacy.py",
        _STDLIB + "importlib/resources/_functional.py",
        _STDLIB + "threading.py",
        _STDLIB + "concurrent/futures/thread.py",
    )
)
#: Between them and their caller.
_BETWEEN = frozenset((_STDLIB + "functools.py", _STDLIB + "contextlib.py"))
#: The line that calls, for a request of the host's, what is no function of the guest's own.
CALLED = "<called by the host>"
_getframe = sys._getframe


def _library_prefixes() -> tuple[str, ...]:
    """Return the directories whose code counts as library, with the spelling that code objects carry."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = {path for name in names if (path := sysconfig.get_paths().get(name))}
    paths.add(os.path.dirname(os.path.abspath(os.__file__)))
    paths.update(path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages"))
    paths.update([os.path.realpath(path) for path in paths])
    return (_PACKAGE, "<frozen ", *sorted({path.rstrip("/") + "/" for path in paths if path.startswith("/")}))


LIBRARY: tuple[str, ...] = _library_prefixes()


def count_as_library(directory: str) -> None:
    """In a cell: count what lies below another directory as library."""
    global LIBRARY
    LIBRARY = (*LIBRARY, directory.rstrip("/") + "/")


def is_guest(frame: FrameType) -> bool:
    """Tell whether a frame runs guest code: code from below no library directory."""
    return not frame.f_code.co_filename.startswith(LIBRARY)


def carries(frame: FrameType, name: str, *, looking: bool = False) -> bool:
    """Tell whether a frame of the library imports, or looks for, a module that guest code has named to it.

    What a statement of its own imports it has among its names (inspect, `co_names`).
    """
    code = frame.f_code
    if code.co_filename not in _CARRIERS or code.co_name == "<module>" or name in code.co_names:
        return False
    if code.co_filename == _RUNPY and not looking:
        return False
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_filename in _CARRIERS | _BETWEEN:
        outer = outer.f_back
    return outer is None or is_guest(outer)


def run_by_runpy(frame: FrameType) -> object:
    """Return what `runpy` looks for, as its caller named it, where its frame imports the packages above that."""
    code = frame.f_code
    if code.co_filename != _RUNPY or code.co_name != "_get_module_details":
        return None
    return frame.f_locals.get("mod_name")


def above(depth: int) -> FrameType | None:
    """Return the frame `depth` above the caller's, None where there is none: a thread may begin with any function."""
    try:
        return _getframe(depth + 1)
    except ValueError:
        return None


def is_hook(frame: FrameType) -> bool:
    """Tell whether a frame is this layer's own."""
    return frame.f_code.co_filename.startswith(_HOOKS)


def is_import_machinery(frame: FrameType) -> bool:
    """Tell whether a frame is importlib's, on its way through the directories of the import path."""
    return frame.f_code.co_filename.startswith((_IMPORTLIB, _METADATA))


def searches_archive() -> bool:
    """Tell whether importlib looks for metadata in what may be an archive of the import path."""
    frame = caller()
    if frame is None or not frame.f_code.co_filename.startswith(_ZIPFILE):
        return False
    while frame is not None and frame.f_code.co_filename.startswith(_ZIPFILE):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_METADATA)


def opens_by_tempfile() -> bool:
    """Tell whether `tempfile` opens: the name it gives is a directory's, in which its own opener makes a file."""
    frame = caller()
    return frame is not None and frame.f_code.co_filename == _TEMPFILE


def opens_by_pty() -> bool:
    """Tell whether `pty` opens: without a pseudo-terminal it tries 256 names, one after the other."""
    frame = caller()
    return frame is not None and frame.f_code.co_filename == _PTY


def tries_program() -> bool:
    """Tell whether a library runs a program that it does without where there is none (OSError)."""
    frame = caller()
    while frame is not None and frame.f_code.co_filename == _SUBPROCESS:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.endswith(_TRY_PROGRAMS) and not is_guest(frame)


def names_dir_fd() -> bool:
    """Tell whether the code that calls passes a `dir_fd` anywhere: the names of such arguments are a constant of it."""
    frame = caller()
    constants = frame.f_code.co_consts if frame is not None else ()
    return any(isinstance(one, tuple) and "dir_fd" in one for one in constants)


def is_tarfile() -> bool:
    """Tell whether `tarfile` calls."""
    frame = caller()
    return frame is not None and frame.f_code.co_filename == _TARFILE


def caller() -> FrameType | None:
    """Return the nearest frame outside this layer."""
    frame: FrameType | None = _getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HOOKS):  # `is_hook`, on a hot path
        frame = frame.f_back
    return frame


def guest() -> FrameType | None:
    """Return the nearest frame of guest code; None where there is only library code."""
    frame: FrameType | None = _getframe(1)
    while frame is not None and not is_guest(frame):
        frame = frame.f_back
    return frame


def origin() -> str | None:
    """Return the nearest guest frame as "file:line in function", or None (library code only, in a thread or a call)."""
    frame = guest()
    if frame is None or frame.f_code.co_filename == CALLED:
        return None
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno or 0} in {code.co_qualname}"
