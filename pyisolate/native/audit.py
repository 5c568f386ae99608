"""The C audit hook: asks a Python callable about chosen audit events, on sandbox threads only.

Order of use: `install()` and `set_events()` once per process; then in each sandbox thread `set_thread_callback(f)`
(thread isolation), or once `set_process_callback(f)` (a cell, where every thread is the guest's); then `seal()`.

The callable gets `(event, args)`. It raises to refuse, and the exception appears at the guest's line; it returns the
capability number to put into the thread's slot (`capability | flags << 8 | verdict << 16`; verdict 0 reads as allow,
flags are those of `src/asked.h`), or None or 0 for no slot. Events raised while it runs pass unasked, so it must never
run guest code (`str()` of a guest's object, say).

This is not a boundary: the guest shares the interpreter with the hook and can corrupt it. The kernel is.

Sources: PEP 578, sys.audit, PySys_AddAuditHook. CPython 3.11+; no kernel feature.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from . import _native
from .result import check

AuditCallback = Callable[[str, tuple[Any, ...]], int | None]

_ffi, _lib = _native.ffi, _native.lib

#: Flags of an answer, shifted to their place (`src/asked.h`); a test compares them with `hooks/answer_codes.py`.
FLAGS: dict[str, int] = {
    name: getattr(_lib, f"ASKED_{name}") << 8 for name in ("MANY", "AHEAD", "RESOLVES", "NOTHING", "IMPORTS")
}

_SEALED = "sealed: only the holder of the token that seal() returned can release a thread; a process stays so"
_ORDER = "call install() and set_events() first"


def install() -> None:
    """Add the hook to this process; later calls do nothing. Audit hooks cannot be removed."""
    check(_lib.audit_install(), "PySys_AddAuditHook", hint="another audit hook vetoed it: sys.addaudithook")


def installed() -> bool:
    """Tell whether the hook is in place."""
    return bool(_lib.audit_installed())


def set_events(events: Iterable[str]) -> None:
    """Choose the events that sandbox threads are asked about; once per process, at most 511.

    Starting a sub-interpreter is refused, since its events could not be put to a callable of this one: at once on
    3.11, by its first "open" from 3.12 on, so have that among the events.
    """
    names = [_ffi.new("char[]", name.encode()) for name in dict.fromkeys(events)]
    result = _lib.audit_set_events(_ffi.new("const char *[]", names), len(names))
    check(result, "audit set_events", hint="the table is set once per process and holds at most 511 events")


def set_thread_callback(callback: AuditCallback | None) -> None:
    """Make the current thread a sandbox thread asked through `callback`; None makes it an ordinary one again."""
    _set(_lib.audit_set_thread, callback, "audit set_thread_callback")


def set_process_callback(callback: AuditCallback | None) -> None:
    """Ask `callback` about every thread of this process that has no callback of its own; None ends it."""
    _set(_lib.audit_set_process, callback, "audit set_process_callback")


def _set(setter: Callable[[int], int], callback: AuditCallback | None, operation: str) -> None:
    # The C side takes a reference of its own; `callback` lives at least until it returns.
    result = setter(0 if callback is None else id(callback))
    check(result, operation, hint=_SEALED if is_sealed() else _ORDER)


def seal(token: int | None = None) -> int:
    """Make every later set_* in this thread raise PermissionError; in the whole process where it has a callback.

    Returns the token for `release`, drawn at random unless the caller brings one (a cell may be denied randomness).
    Keep it where the guest does not look; see the module text for what that is worth.
    """
    if token is None:
        token = int.from_bytes(os.urandom(8)) >> 1 | 1
    check(_lib.audit_seal(token), "audit seal", hint=_SEALED)
    return token


def release(token: int) -> None:
    """End a sealed thread's time as sandbox thread: drops callback and slot. Call it before the thread ends."""
    check(_lib.audit_release(token), "audit release", hint=_SEALED)


def is_sealed() -> bool:
    """Tell whether set_* would raise in this thread."""
    return bool(_lib.audit_is_sealed())


def audit_sequence() -> int:
    """Return the number of the event this thread was last asked about; unique in the process, from 1."""
    return int(_lib.audit_sequence())


def set_slot(fd: int | None, *, page: int = 0, offset: int = 0) -> None:
    """Store (sequence u64, capability u32, verdict u32) for this thread at `offset` bytes into a page of `fd`.

    `fd` is an mmapable BPF array or any shared memory; None ends it. The mapping outlives `fd`. Written with plain
    stores before an allowed event returns, when the callable gave a capability number.
    """
    result = _lib.audit_set_slot(-1 if fd is None else fd, page, offset)
    check(result, "audit set_slot", fd, hint=_SEALED if is_sealed() else None)


def set_page(fd: int, page: int) -> None:
    """Store into page `page` of `fd` for every thread of this process, in the slot of its thread id (of 128).

    `fd` is the mmapable BPF array of slots. Once per process, before `seal`; the mapping outlives `fd`.
    """
    check(_lib.audit_set_page(fd, page), "audit set_page", fd, hint=_SEALED if is_sealed() else None)


def set_asked(fd: int) -> None:
    """Tell the notification listener through its page, in `fd`, what each thread of this process was asked.

    Once per process, before `seal`; the mapping outlives `fd`.
    """
    check(_lib.audit_set_asked(fd), "audit set_asked", fd, hint=_SEALED if is_sealed() else None)


def own_asked() -> int:
    """Return the address of the page into which this process's own sandbox threads write, made once; 0: no memory."""
    return int(_lib.audit_own_asked())


def tell(answer: int, subject: object = None) -> None:
    """Put an answer about what raises no audit event into that page; nothing happens without one.

    `subject` is the call's first argument, as it was passed: a name or a descriptor ties a question about a file to it.
    """
    tag = 0
    if type(subject) is bytes or type(subject) is str:
        name = subject if isinstance(subject, bytes) else str(subject).encode("utf-8", "surrogateescape")
        tag = _lib.audit_name_tag(name, len(name))
    elif type(subject) is int and 0 <= subject < 1 << 31:
        tag = _lib.audit_descriptor_tag(subject)
    _lib.audit_tell(answer, tag)


def announced() -> int:
    """Return how many reloads the host has announced in that page; 0 without one."""
    return int(_lib.audit_announced())


def note_refusal(index: int) -> None:
    """Count a refusal in that page: what the host has received less than that when the guest ends, it records.

    `index`: capability number * 2, and 1 more for what was let through.
    """
    _lib.audit_note_refusal(index)
