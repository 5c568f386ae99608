"""Builtins of this package's own, in a zygote and its cells: a guest may replace the interpreter's for good.

A function finds builtins in the dictionary that its module's globals name (`__builtins__`, Objects/funcobject.c), so
the modules of this package get a copy of it. It is no boundary: a guest that looks for the copy finds it.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_PACKAGE = f"{__name__.partition('.')[0]}."
_SHARED = vars(builtins)
_OWN = _SHARED.copy()
#: the interpreter's, as guests find them
_GUESTS: dict[str, Any] = {}
_ABSENT = object()


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = _OWN
        super().exec_module(module)


class _Finder:
    """Finds this package's modules as the interpreter does, and has them use the copy."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_PACKAGE):
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is not None and type(found.loader) is SourceFileLoader:
            found.loader = _Loader(found.loader.name, found.loader.path)
        return found


def begin() -> None:
    """Have modules of this package that are imported from now on use the copy."""
    sys.meta_path.insert(0, _Finder)


def end() -> None:
    """All that cells need is imported, and builtins are as guests get them: no guest finds this finder."""
    sys.meta_path.remove(_Finder)
    _GUESTS.update(_SHARED)


class Restored:
    """Builtins as they were before guest code, for as long as the interpreter's library works for this package.

    A context of a class: `contextlib` would drive a generator by builtins.
    """

    def __enter__(self) -> None:
        now = {name: _SHARED.get(name, _ABSENT) for name in _GUESTS}
        self._replaced = {name: value for name, value in now.items() if value is not _GUESTS[name]}
        for name in self._replaced:
            _SHARED[name] = _GUESTS[name]

    def __exit__(self, *_: object) -> None:
        for name, value in self._replaced.items():
            if value is _ABSENT:
                del _SHARED[name]
            else:
                _SHARED[name] = value
