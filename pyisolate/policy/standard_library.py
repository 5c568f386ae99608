"""Which modules of the standard library an import variable stands for, and which of them call foreign functions.

`ctypes` calls any function of a loaded library and reads and writes memory by address, so that nothing in the
interpreter holds: it is named apart. `_ctypes` is its native part. No other module of the standard library is like it:
`mmap` maps files, `_posixsubprocess`, `sqlite3` and `tkinter` act by calls that hooks and kernel decide. The
interpreter's own tests (`_testcapi`, `_xxsubinterpreters`) are no part of the standard library
(`sys.stdlib_module_names`), so no variable has them; nor has any what makes sub-interpreters, which 3.13 added there.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

STDLIB = "@stdlib"
#: The standard library without foreign functions.
NO_FFI = "@stdlib-no-ffi"
VARIABLES = (STDLIB, NO_FFI)
#: Native code that calls foreign functions, and the module that brings it.
FOREIGN_NATIVE, FOREIGN_MODULE = "_ctypes", "ctypes"
FOREIGN = frozenset({FOREIGN_MODULE, FOREIGN_NATIVE})
#: What makes interpreters and what passes between them: hooks refuse to make one, so that these are of no use.
_SUB_INTERPRETERS = frozenset({"_interpreters", "_interpchannels", "_interpqueues"})


def is_builtin_ctypes(name: object) -> bool:
    """Tell whether a module is `_ctypes`, and built into this interpreter, so that no file is loaded."""
    return name == FOREIGN_NATIVE and FOREIGN_NATIVE in sys.builtin_module_names


def variables_of(top: str, names: Collection[str] = sys.stdlib_module_names) -> tuple[str, ...]:
    """Return the variables that stand for a top-level module, the narrower one first. `names`: of the interpreter."""
    if top not in names or top in _SUB_INTERPRETERS:
        return ()
    return (STDLIB,) if top in FOREIGN else (NO_FFI, STDLIB)
