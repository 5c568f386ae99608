"""cffi build of `pyisolate.native._libbpf`: libbpf, and the structs of `bpf/pyisolate.h`.

Optional: setup.py leaves it out where libbpf is not installed, and the package then works without BPF.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

_HERE = Path("pyisolate/native/src/bpf")  # builds run in the project's root
_HEADER, _NUMBERS = Path("bpf/pyisolate.h"), Path("bpf/capability.h")
_INTEGERS = """
typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32; typedef unsigned long long __u64;
typedef signed char __s8; typedef short __s16; typedef int __s32; typedef long long __s64;
"""


def declarations(header: str) -> str:
    """Return what cffi can read of the shared header: its constants, enums and structs, without the conditionals."""
    lines = [
        line for line in header.splitlines() if not re.match(r"#\s*(if|endif|include|else)|#define PYI\w*_H", line)
    ]
    text = re.sub(r"/\*.*?\*/", "", "\n".join(lines), flags=re.DOTALL)
    return re.sub(r"^(#define \w+ \d+).*$", r"\1", text, flags=re.MULTILINE)


def _make() -> FFI:
    ffi = FFI()
    ffi.cdef(_INTEGERS + declarations(_NUMBERS.read_text()) + declarations(_HEADER.read_text()))
    ffi.cdef((_HERE / "libbpf.cdef.h").read_text())
    ffi.set_source(
        "pyisolate.native._libbpf",
        '#define PYISOLATE_ONE_UNIT\n#include <stdlib.h>\n#include "libbpf.c"\n',
        include_dirs=[str(_HERE), "bpf"],
        libraries=["bpf"],
        depends=[str(_HEADER), str(_NUMBERS), *(str(path) for path in sorted(_HERE.glob("*")))],
        extra_compile_args=["-O2", "-Wall", "-Werror=implicit-function-declaration", "-fvisibility=hidden"],
    )
    return ffi


ffibuilder = _make()
