"""cffi build of `pyisolate.native._native`, from the pairs `src/<name>.cdef.h` + `src/<name>.c`.

`<name>.cdef.h` holds what Python may call (cffi's dialect of C), `<name>.c` the code, and `<name>.types.h`, where there
is one, the structs and enums of both. All `.c` files become one
translation unit: make every function and variable `static`, or `SHARED` (shared.h) where another file or Python uses
it, and start its name with the file's. Each file compiles alone, too.
Adding a pair is all it takes; nothing here names them.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

from cffi import FFI

_HERE = Path("pyisolate/native")  # builds run in the project's root
_SOURCES = _HERE / "src"


class MissingLibrary(RuntimeError):
    """A library needed by the build is not installed."""


def _flags(package: str, header: str, debian: str) -> tuple[list[str], list[str]]:
    """Return the include directories and libraries of a pkg-config package."""
    pkg_config = shutil.which("pkg-config")
    if pkg_config:
        done = subprocess.run([pkg_config, "--cflags", "--libs", package], capture_output=True, text=True, check=False)
        found, words = done.returncode == 0, done.stdout.split()
    else:
        found, words = Path("/usr/include", header).exists(), [f"-l{package.removeprefix('lib')}"]
    if not found:
        raise MissingLibrary(f"build pyisolate.native._native: {package} not found. Hint: apt install {debian}")
    return [w[2:] for w in words if w.startswith("-I")], [w[2:] for w in words if w.startswith("-l")]


def _declarations(header: Path) -> str:
    """Return a header as cffi reads it: without the preprocessor's lines."""
    return "".join(line for line in header.read_text().splitlines(keepends=True) if not line.startswith("#"))


def _make() -> FFI:
    include_dirs, libraries = _flags("libseccomp", "seccomp.h", "libseccomp-dev")
    ffi = FFI()
    for header in (_SOURCES / "capability.h", *sorted(_SOURCES.glob("*.types.h"))):
        ffi.cdef(_declarations(header))
    # by path: to import the package takes the extension
    digest = runpy.run_path(str(_HERE / "sources.py"))["digest"](_SOURCES)
    ffi.cdef("static char *const SOURCES_DIGEST;")
    parts = []
    for cdef in sorted(_SOURCES.glob("*.cdef.h")):
        ffi.cdef(cdef.read_text())
        parts.append(cdef.name.removesuffix(".cdef.h"))
    ffi.set_source(
        "pyisolate.native._native",
        f'#define PYISOLATE_ONE_UNIT\nstatic char *const SOURCES_DIGEST = "{digest}";\n'
        + "".join(f'#include "{name}.c"\n' for name in parts),
        # PySys_AddAuditHook and PyOS_BeforeFork are not in the limited API
        py_limited_api=False,
        include_dirs=[str(_SOURCES), *include_dirs],
        libraries=libraries,
        depends=[str(path) for path in sorted(_SOURCES.glob("**/*.[ch]"))],
        extra_compile_args=["-O2", "-Wall", "-Werror=implicit-function-declaration", "-fvisibility=hidden"],
    )
    return ffi


ffibuilder = _make()
