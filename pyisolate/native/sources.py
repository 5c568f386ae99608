"""Whether the extension that was built in place is that of the C sources beside it. An installed package has none.

One that is older lacks functions that Python calls, or has what they were. `_build.py` runs this file by its path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_HERE = Path(__file__).parent
#: What these errors of an import are by: a command says no more of one than its message.
PACKAGE = "pyisolate.native"
_HINT = "Hint: run `make setup`"


def digest(folder: Path) -> str:
    """Return the hash of all C in a folder: names and contents."""
    import hashlib  # takes longer than the rest, and is seldom needed

    found = hashlib.sha256()
    for path in sorted(Path(one.path) for one in _sources(folder)):
        found.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def require_fresh(folder: Path = _HERE / "src", built: Path | None = None) -> None:
    """Raise ImportError, of name `PACKAGE`, where sources have changed since the extension was built, or it was not."""
    if not folder.is_dir():
        return
    extension = built or next((path for end in EXTENSION_SUFFIXES if (path := _HERE / f"_native{end}").exists()), None)
    if extension is None:
        # a user who installed the package, and starts Python in its clone, imports the clone
        hint = f"{_HINT}; where pyisolate is installed, start Python in another directory than {folder.parents[2]}"
        raise ImportError(f"pyisolate: the native parts are not built for this Python. {hint}", name=PACKAGE)
    try:
        made = extension.stat().st_mtime
        if all(one.stat().st_mtime <= made for one in _sources(folder)):
            return
        now = digest(folder)
    except OSError:  # who may not read sources has not changed them
        return
    from ._native import ffi, lib  # only now: most imports of the package need no more than the dates

    of = getattr(lib, "SOURCES_DIGEST", None)
    if of is None or ffi.string(of).decode() != now:
        raise ImportError(f"pyisolate: the native parts are older than their sources. {_HINT}", name=PACKAGE)


def _sources(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for one in entries:
            if one.is_dir():
                yield from _sources(one.path)
            elif one.name.endswith((".c", ".h")):
                yield one
