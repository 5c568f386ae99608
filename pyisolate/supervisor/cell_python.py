"""The interpreter of cells, where that is another than the host's: of another version, or of a virtual environment."""

from __future__ import annotations

import json
import os
import subprocess

import msgspec

from ..distribution import NAME, VERSION
from ..errors import SandboxError
from ..policy.interpreter import InterpreterFiles

#: Imports what a zygote is made of; prints the version, and where the libraries are that are put before its C library.
_QUESTION = """
import json, os, cloudpickle, msgspec
from pyisolate import distribution
from pyisolate.native import audit, quiet, zygote_loop
print(json.dumps([distribution.VERSION, {"_quiet": quiet.library(), "_reports": quiet.library("_reports")}]))
"""
_ANSWER_TIMEOUT_S = 60.0


class CellPython(msgspec.Struct, frozen=True):
    """Another interpreter with pyisolate installed: its files, and the libraries that its zygote is started with."""

    files: InterpreterFiles
    libraries: dict[str, str | None]

    @property
    def places(self) -> tuple[str, ...]:
        """What cells' users have to reach of it."""
        return (self.files.stdlib, os.path.dirname(self.files.executable), *self.files.site_dirs)


def find_python(given: str) -> CellPython:
    """Return an interpreter that can run cells. Raises SandboxError where this version of pyisolate is not there."""
    import shutil  # most supervisors name no interpreter

    found = shutil.which(given)
    if found is None:
        raise SandboxError(f"python {given}: there is no such program", hint="name an interpreter by its path")
    files = InterpreterFiles.discover(os.path.abspath(found))
    try:
        done = subprocess.run(
            [files.executable, "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=_ANSWER_TIMEOUT_S,
            stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"python {found}: does not answer: {error}", hint="name a working interpreter") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        _refuse(found, f"cannot run cells: {said[-1]}")
    version, libraries = json.loads(done.stdout)
    if version != VERSION:
        _refuse(found, f"has version {version} of pyisolate, and this is {VERSION}")
    return CellPython(files, libraries)


def _refuse(python: str, why: str) -> None:
    raise SandboxError(f"python {python}: {why}", hint=f"{python} -m pip install {NAME}=={VERSION}")
