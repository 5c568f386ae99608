"""Build of the native parts; everything declarative is in pyproject.toml.

Two cffi extensions (`pyisolate/native/_build.py`; `_build_bpf.py` where libbpf is installed), the BPF objects
(`pyisolate/native/_build_objects.py`), and what `pyisolate demo` runs, all inside the wheel. Where the BPF parts cannot
be built they are left out, and `pyisolate doctor` says so; PYISOLATE_BPF=required ends the build instead.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NATIVE = Path("pyisolate/native")


def have_libbpf() -> bool:
    pkg_config = shutil.which("pkg-config")
    if pkg_config:
        return subprocess.run([pkg_config, "--exists", "libbpf"], check=False).returncode == 0
    return Path("/usr/include/bpf/libbpf.h").exists()


def leave_out(what: str, remedy: str) -> None:
    """Say that a part is left out of this build, or end it where that part is required."""
    if os.environ.get("PYISOLATE_BPF") == "required":
        raise SystemExit(f"pyisolate: {what}, and PYISOLATE_BPF=required. Hint: {remedy}")
    print(f"pyisolate: {what} ({remedy})")  # noqa: T201 - build output


def cffi_modules() -> list[str]:
    modules = [f"{NATIVE}/_build.py:ffibuilder"]
    if have_libbpf():
        modules.append(f"{NATIVE}/_build_bpf.py:ffibuilder")
    else:
        leave_out("libbpf's headers not found: built without BPF", "Debian: apt install libbpf-dev")
    return modules


class BuildExt(build_ext):
    """Extensions first, then the BPF objects, beside the package that loads them."""

    def run(self) -> None:
        super().run()
        if not have_libbpf():  # nothing could load the objects
            return
        if not shutil.which("clang"):
            leave_out("clang not found: built without BPF objects", "Debian: apt install clang libbpf-dev")
            return
        in_place = bool(self.inplace or getattr(self, "editable_mode", False))
        target = (ROOT if in_place else Path(self.build_lib).resolve()) / "pyisolate/kernel/bpf/objects"
        # Loaded by path: importing the package here would need the extension that is being built.
        build: Any = runpy.run_path(str(ROOT / NATIVE / "_build_objects.py"))["build_objects"]
        build(ROOT / "bpf", target, strict=not in_place)


class BuildPy(build_py):
    """The package, and beside the demo what it runs: an installation has no docs folder."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        target = Path(self.build_lib) / "pyisolate/cli/demo/examples"
        target.mkdir(parents=True, exist_ok=True)
        for name in ("penguins.csv", "report.py"):
            shutil.copy(ROOT / "docs/examples" / name, target)


#: Loaded by LD_PRELOAD into the zygote; no Python in them (native/quiet.py).
PRELOADED = [
    Extension(
        f"pyisolate.native.{name}",
        [f"{NATIVE}/src/preload/{source}.c" for source in sources],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
        depends=[f"{NATIVE}/src/{header}.h" for header in ("marks", "allowed", "preload/own_descriptor")],
        libraries=["dl"],
    )
    for name, sources in (("_quiet", ["files"]), ("_reports", ["lookups", "limits"]))
]

setup(cffi_modules=cffi_modules(), ext_modules=PRELOADED, cmdclass={"build_ext": BuildExt, "build_py": BuildPy})
