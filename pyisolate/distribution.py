"""The distribution that this package comes from: its name, how pip installs it, and whether another lies over it.

PyPI's distribution `pyisolate` belongs to another project, whose import package has the same name as this one.
"""

from __future__ import annotations

import os
import sys

NAME = "pyisolate-kernel"
#: pyproject.toml reads it here.
VERSION = "0.1.0"
#: pip builds it here instead of taking the wheel: with the compilers and headers that this machine has.
REBUILD = f"pip install --force-reinstall --no-binary {NAME} {NAME}"
_REMEDY = f"pip uninstall -y pyisolate {NAME}; pip install {NAME}, and a virtual environment of its own for the other"


def install_extra(extra: str) -> str:
    """Return the command that adds an extra of pyproject.toml."""
    return f"pip install '{NAME}[{extra}]'"


def refuse_another() -> None:
    """Raise ImportError where the distribution `pyisolate` is installed in the folder that this package is in.

    The two own the same files: whichever came last wins, and to remove either breaks the other.
    """
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        names = os.listdir(folder)
    except OSError:  # a folder that may be searched and not read, or an archive
        return
    for name in names:
        if name.startswith("pyisolate-") and name.endswith(".dist-info"):
            found = name.removesuffix(".dist-info").replace("-", " ")
            raise ImportError(
                f"import pyisolate: the distribution {found} is installed in {folder} too, and has files of the same "
                f"names as {NAME}. Hint: {_REMEDY}"
            )


def refuse_to_be_overlaid(package: str) -> None:
    """Raise ImportError where the import package `package` is another project's, around this module's files."""
    if not hasattr(sys.modules[package], "refuse_another"):
        raise ImportError(
            f"import {package}: its __init__ is not that of {NAME}: the distribution pyisolate, another project's, was "
            f"installed over it. Hint: {_REMEDY}"
        )
