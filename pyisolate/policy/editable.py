"""Modules that a site directory names and does not hold: editable installs, and directories that `.pth` files add.

Read, and never run: paths of `.pth` files (the module `site`), and what setuptools' finders of editable installs map.
"""

from __future__ import annotations

import ast
import glob
import logging
import os
from collections.abc import Iterator
from functools import lru_cache

import msgspec

_log = logging.getLogger("pyisolate.policy")
#: Bounds of our own, since `site` has none: files of one kind in a directory, and bytes of a file. setuptools' finders
#: have 3 KiB (`editable_wheel._FINDER_TEMPLATE`, 84.2.1) and some 100 bytes for each module that they map.
_MOST_FILES = 200
_MOST_BYTES = 1 << 20


class Editables(msgspec.Struct, frozen=True):
    """What the site directories of an interpreter name elsewhere."""

    #: directories that the interpreter searches besides
    directories: tuple[str, ...] = ()
    #: dotted name -> the directory or file of the module
    modules: tuple[tuple[str, str], ...] = ()

    def named(self, top: str) -> list[tuple[str, str]]:
        """Return the mapped modules at and below a top-level name, each with its directory or file."""
        return [(name, path) for name, path in self.modules if name == top or name.startswith(f"{top}.")]


@lru_cache(maxsize=8)
def find_editables(site_dirs: tuple[str, ...], stamps: tuple[int, ...]) -> Editables:
    """Return what is named in these directories. `stamps`: of the directories; others are read again."""
    directories: dict[str, None] = {}
    modules: dict[str, str] = {}
    for site in site_dirs:
        for pth in _files(f"{glob.escape(site)}/*.pth"):
            directories.update((path, None) for path in paths_in(pth) if path not in site_dirs)
        for finder in _files(f"{glob.escape(site)}/__editable__*_finder.py"):
            modules.update(_mapping(finder))
    return Editables(tuple(directories), tuple(sorted(modules.items())))


def paths_in(pth: str) -> Iterator[str]:
    """Yield the directories that a `.pth` file names; its other lines are code, which `site` runs."""
    for line in _text(pth).splitlines():
        if line.strip() and not line.startswith(("#", "import ", "import\t")):
            path = os.path.normpath(os.path.join(os.path.dirname(pth), line.rstrip()))
            if path != "/" and os.path.isdir(path):
                yield path


def _mapping(finder: str) -> dict[str, str]:
    """Return what setuptools' finder of an editable install maps: the literal `MAPPING` of its source."""
    try:
        body = ast.parse(_text(finder)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    for one in body:
        if not isinstance(one, ast.Assign | ast.AnnAssign) or one.value is None:
            continue
        target = one.targets[0] if isinstance(one, ast.Assign) else one.target
        if isinstance(target, ast.Name) and target.id == "MAPPING":
            try:
                found = ast.literal_eval(one.value)
            except (ValueError, TypeError):
                return {}
            pairs = found.items() if isinstance(found, dict) else ()
            return {name: place for name, path in pairs if (place := _place(path)) and isinstance(name, str)}
    return {}


def _place(path: object) -> str:
    """Return where a mapped module is: its directory, or its file, which may be named without `.py`; else nothing."""
    if not isinstance(path, str) or not os.path.isabs(path):
        return ""
    path = os.path.normpath(path)
    return next((one for one in (path, f"{path}.py") if os.path.exists(one)), "")


def _files(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern))
    if len(found) > _MOST_FILES:
        _log.debug("%s: %d files, of which %d are read", pattern, len(found), _MOST_FILES)
    return found[:_MOST_FILES]


def _text(path: str) -> str:
    """Return a file's text; nothing of one that cannot be read or is too long: half of it would say something else."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError:
        return ""
    if len(data) > _MOST_BYTES:
        _log.debug("%s: not read, it is over %d bytes", path, _MOST_BYTES)
        return ""
    return data.decode("utf-8", "replace")
