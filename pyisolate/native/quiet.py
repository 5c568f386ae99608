"""Quiet file calls: those of the zygote's own C library pass the filter; the listener sees only what was refused.

`src/preload/files.c` is loaded into the zygote before the C library. It makes each file call from one known address,
and repeats a refused one from elsewhere. `prefix` returns the instructions that let calls from that address pass;
without them every file call of a cell is notified, which costs about ten times a successful open and records the
same. `src/preload/lookups.c` and `limits.c`, a library of their own, report to the listener look-ups that found nothing
and limits that a guest has met.

Sources: seccomp(2) (`struct seccomp_data`), ld.so(8) (LD_PRELOAD), linux/bpf_common.h.
"""

from __future__ import annotations

import os
import struct
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal, NamedTuple

from ._native import lib

_LD_ABS, _JEQ, _JSET, _JA, _RET = 0x20, 0x15, 0x45, 0x05, 0x06
#: Low half of a repeated call's sixth argument (PYISOLATE_AGAIN in preload/files.c): the kernel has refused it twice.
_AGAIN = 0x70796973
#: offsets in struct seccomp_data
_NUMBER, _ARCHITECTURE, _ADDRESS, _ARGUMENTS = 0, 4, 8, 16
_SET_ID_BITS = 0o6000
_ALLOW: int = lib.SECCOMP_RET_ALLOW
_ARCH: int = lib.SECCOMP_AUDIT_ARCH


#: The libraries: quiet file calls; reports of look-ups and limits.
Preloaded = Literal["_quiet", "_reports"]


def first_error(argument: int) -> int:
    """Return what the kernel said to a call's first try, by its sixth argument; 0: it is no repeat.

    The guest's word: it may write what it likes there.
    """
    return argument >> 32 if argument & 0xFFFFFFFF == _AGAIN else 0


class QuietCall(NamedTuple):
    """A system call that passes from the quiet address; `mode_argument` must then hold no set-id bit."""

    number: int
    mode_argument: int | None = None


def library(name: Preloaded = "_quiet") -> str | None:
    """Return the path of a shared object that LD_PRELOAD wants; None where it was not built."""
    here = Path(__file__).resolve().parent
    found = (here / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((str(path) for path in found if os.access(path, os.R_OK)), None)


def address() -> int | None:
    """Return the address to which this process's quiet calls return; None where the library is not loaded."""
    return int(lib.quiet_address()) or None


def tell_all(everything: bool) -> None:
    """Make every file call of this process one that the listener sees, or the refused ones alone again."""
    lib.quiet_tell_all(everything)


def never_files() -> None:
    """Leave to look-ups alone the address that this process's filter will know: what they find is no refusal."""
    lib.quiet_never_files()


def report_sizes() -> None:
    """Report files that may not grow, in place of ignoring SIGXFSZ; nothing where the library is not loaded."""
    lib.quiet_report_sizes()


def prefix(address: int, calls: tuple[QuietCall, ...]) -> bytes:
    """Return BPF instructions that allow `calls` from `address` and go on to what follows them otherwise.

    The number is looked at first: the kernel keeps calls whose verdict depends on it alone in a bitmap (5.11), and a
    filter that looked at addresses first would lose that for every call.
    """
    modes = sorted({call.mode_argument for call in calls if call.mode_argument is not None})
    plain = 1 + len(calls) + 1 + 3 * len(modes)  # where the address is looked at
    end = plain + 7
    at_mode = {mode: 1 + len(calls) + 1 + 3 * index for index, mode in enumerate(modes)}
    program = [_instruction(_LD_ABS, 0, 0, _NUMBER)]
    for index, call in enumerate(calls, start=1):
        target = plain if call.mode_argument is None else at_mode[call.mode_argument]
        program.append(_instruction(_JEQ, target - index - 1, 0, call.number))
    program.append(_instruction(_JA, 0, 0, end - len(program) - 1))
    for mode in modes:
        program.append(_instruction(_LD_ABS, 0, 0, _ARGUMENTS + 8 * mode))
        program.append(_instruction(_JSET, end - len(program) - 1, 0, _SET_ID_BITS))
        program.append(_instruction(_JA, 0, 0, plain - len(program) - 1))
    for offset, value in (
        (_ARCHITECTURE, _ARCH),
        (_ADDRESS, address & 0xFFFFFFFF),
        (_ADDRESS + 4, address >> 32),
    ):
        program.append(_instruction(_LD_ABS, 0, 0, offset))
        program.append(_instruction(_JEQ, 0, end - len(program) - 1, value))
    program.append(_instruction(_RET, 0, 0, _ALLOW))
    return b"".join(program)


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    """Return one `struct sock_filter` (linux/filter.h)."""
    return struct.pack("=HBBI", code, if_true, if_false, operand & 0xFFFFFFFF)
