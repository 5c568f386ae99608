"""Packages that this host's user has, and that no guest finds: of the user's own site directory, of PYTHONPATH, of a
virtual environment that is active here and is not this interpreter's. Interpreters of guests start isolated (-I)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from .interpreter import InterpreterFiles
from .packages import module_paths

#: What names the root of an environment that a shell has activated.
_ACTIVE = ("VIRTUAL_ENV", "CONDA_PREFIX")


def places() -> Iterator[tuple[str, str]]:
    """Yield directories of packages that are there, and what each is."""
    import site

    if os.path.isdir(user := site.getusersitepackages()):
        yield user, "of this user alone (pip install --user)"
    for name in _ACTIVE:
        root = os.environ.get(name, "")
        found = f"{root}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        if os.path.isabs(root) and os.path.realpath(root) != os.path.realpath(sys.prefix) and os.path.isdir(found):
            yield found, f"of another environment ({name})"
    for directory in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if os.path.isabs(directory) and os.path.isdir(directory):
            yield directory, "of PYTHONPATH"


def why_unseen(name: str, interpreter: InterpreterFiles) -> str | None:
    """Say where a top-level module is that guests do not find, and what to do; None where it is in no such place."""
    for directory, what in places():
        if directory not in interpreter.site_dirs and next(module_paths(name, directory, interpreter), None):
            return (
                f"{name} is in {directory}, a directory {what}, where guests find nothing: install it for "
                f"{interpreter.executable}, or give an environment (Environment.from_requirements, --environment)"
            )
    return None
