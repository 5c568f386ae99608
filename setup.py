"""Build of the native parts; everything declarative is in pyproject.toml.

Two cffi extensions (`pyisolate/native/_build.py`; `_build_bpf.py` where libbpf is installed) and the BPF objects
(`pyisolate/native/_build_objects.py`) that ship inside the wheel.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NATIVE = Path("pyisolate/native")


def have_libbpf() -> bool:
    pkg_config = shutil.which("pkg-config")
    if pkg_config:
        return subprocess.run([pkg_config, "--exists", "libbpf"], check=False).returncode == 0
    return Path("/usr/include/bpf/libbpf.h").exists()


def cffi_modules() -> list[str]:
    modules = [f"{NATIVE}/_build.py:ffibuilder"]
    if (ROOT / NATIVE / "_build_bpf.py").exists():
        if have_libbpf():
            modules.append(f"{NATIVE}/_build_bpf.py:ffibuilder")
        else:
            print("pyisolate: libbpf headers not found: built without it (Debian: apt install libbpf-dev)")  # noqa: T201 - build output
    return modules


class BuildExt(build_ext):
    """Extensions first, then the BPF objects, beside the package that loads them."""

    def run(self) -> None:
        super().run()
        in_place = bool(self.inplace or getattr(self, "editable_mode", False))
        target = (ROOT if in_place else Path(self.build_lib).resolve()) / "pyisolate/kernel/objects"
        # Loaded by path: importing the package here would need the extension that is being built.
        build: Any = runpy.run_path(str(ROOT / NATIVE / "_build_objects.py"))["build_objects"]
        build(ROOT / "bpf", target, strict=not in_place)


setup(cffi_modules=cffi_modules(), cmdclass={"build_ext": BuildExt})
