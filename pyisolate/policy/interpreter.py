"""What an interpreter needs to read, exactly: never site-packages, `sys.path`, the working directory or /etc."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from functools import lru_cache
from importlib import machinery
from typing import Any

import msgspec

from ..errors import SandboxError
from . import elf

#: Asked of another interpreter than our own; prints one JSON object. Keep in step with `_describe_self`.
_QUESTION = """
import importlib.machinery as m, json, site, sys, sysconfig
print(json.dumps({"executable": sys.executable, "stdlib": sysconfig.get_path("stdlib"),
  "prefix": sys.prefix, "base_prefix": sys.base_prefix, "dynload": sysconfig.get_config_var("DESTSHARED"),
  "sites": site.getsitepackages(), "natives": m.EXTENSION_SUFFIXES, "tag": sys.implementation.cache_tag,
  "names": sorted(sys.stdlib_module_names)}))
"""
#: The directories that the zoneinfo module searches by default (PEP 615, PYTHONTZPATH), and the machine's own zone.
_ZONEINFO = (
    "/usr/share/zoneinfo",
    "/usr/lib/zoneinfo",
    "/usr/share/lib/zoneinfo",
    "/etc/zoneinfo",
    "/etc/localtime",
)
#: Data of the C library that reading text may need: character conversion (iconv(1)), locales of C.UTF-8, their names;
#: and of readline, which `code`, `cmd` and `doctest` import: its keys.
_LOCALE = (
    "/etc/inputrc",
    "/usr/lib/locale/C.utf8",
    "/usr/lib/locale/locale-archive",
    "/usr/share/locale/locale.alias",
    *glob.glob("/usr/lib/*/gconv/gconv-modules.cache"),
    "/usr/lib64/gconv/gconv-modules.cache",
)


class InterpreterFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one interpreter. Paths are absolute and exist; those of a virtual environment included."""

    executable: str
    #: the executable, what it links to, `pyvenv.cfg`: read to start or to inspect it
    binaries: tuple[str, ...]
    #: the standard library's directory; `excluded` are the site directories inside it
    stdlib: str
    excluded: tuple[str, ...]
    #: the standard library's extension modules, or None where all are built in
    lib_dynload: str | None
    #: the shared libraries that binaries and extension modules need, and the loader
    libraries: tuple[str, ...]
    #: the standard library's extension modules, and those of the interpreter's own tests beside them
    extension_files: tuple[str, ...] = ()
    #: what the loader and the C library read besides: ld.so.cache, locale data
    loader_data: tuple[str, ...]
    zoneinfo: tuple[str, ...]
    #: where installed packages live: never readable as a whole, only searched for named modules
    site_dirs: tuple[str, ...]
    #: False: they are an environment's, whose files may name anything as what they need
    trusted_packages: bool = True
    native_suffixes: tuple[str, ...] = tuple(machinery.EXTENSION_SUFFIXES)
    cache_tag: str = sys.implementation.cache_tag or ""
    stdlib_names: frozenset[str] = frozenset()

    @classmethod
    def discover(cls, executable: str | None = None) -> InterpreterFiles:
        """Find the files of `executable` (default: this interpreter). Runs another interpreter once to ask it."""
        if executable is None or executable == sys.executable:
            return _discover(sys.executable, True)
        return _discover(executable, False)


def _describe_self() -> dict[str, Any]:
    import site
    import sysconfig

    return {
        "executable": sys.executable,
        "stdlib": sysconfig.get_path("stdlib"),
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "dynload": sysconfig.get_config_var("DESTSHARED"),
        "sites": site.getsitepackages(),
        "natives": machinery.EXTENSION_SUFFIXES,
        "tag": sys.implementation.cache_tag,
        "names": sorted(sys.stdlib_module_names),
    }


def _ask(executable: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [executable, "-I", "-c", _QUESTION], capture_output=True, timeout=30, check=True, stdin=subprocess.DEVNULL
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxError(
            f"interpreter {executable}: does not answer: {error}", hint="name a working CPython 3.11 or newer"
        ) from error
    return answer


@lru_cache(maxsize=8)
def _discover(executable: str, own: bool) -> InterpreterFiles:
    found = _describe_self() if own else _ask(executable)
    stdlib = os.path.normpath(found["stdlib"])
    dynload = found["dynload"] or os.path.join(stdlib, "lib-dynload")
    lib_dynload = os.path.normpath(dynload) if os.path.isdir(dynload) else None
    sites = tuple(dict.fromkeys(os.path.normpath(path) for path in found["sites"] if os.path.isdir(path)))
    inside = [os.path.join(stdlib, name) for name in ("site-packages", "dist-packages")]
    executables = _links(found["executable"])
    modules = _extension_files(lib_dynload)
    config = os.path.join(found["prefix"], "pyvenv.cfg")
    return InterpreterFiles(
        executable=found["executable"],
        binaries=(*executables, *((config,) if os.path.isfile(config) else ())),
        stdlib=stdlib,
        excluded=tuple(path for path in inside if os.path.isdir(path)),
        lib_dynload=lib_dynload,
        extension_files=tuple(modules),
        libraries=elf.closure([executables[-1], *modules]),
        loader_data=tuple(path for path in (elf.CACHE, *_LOCALE) if os.path.exists(path)),
        zoneinfo=tuple(path for path in _ZONEINFO if os.path.exists(path)),
        site_dirs=sites,
        native_suffixes=tuple(found["natives"]),
        cache_tag=found["tag"],
        stdlib_names=frozenset(found["names"]),
    )


def _links(path: str) -> tuple[str, ...]:
    """Return `path` and what it points to, link by link, the real file last."""
    found = [os.path.abspath(path)]
    # Linux follows at most 40 links (path_resolution(7)).
    while os.path.islink(found[-1]) and len(found) < 40:
        found.append(os.path.normpath(os.path.join(os.path.dirname(found[-1]), os.readlink(found[-1]))))
    real = os.path.realpath(path)
    return tuple(dict.fromkeys([*(p for p in found if p != real), real]))


def _extension_files(directory: str | None) -> list[str]:
    if directory is None:
        return []
    return sorted(entry.path for entry in os.scandir(directory) if entry.name.endswith(".so"))
