"""An extension that is older than its sources is named at the import, with what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyisolate
from pyisolate.native import _native
from pyisolate.native.sources import require_fresh

SOURCES = Path(_native.__file__).parent / "src"


def test_sources_that_have_changed_since_are_named(tmp_path: Path) -> None:
    if not SOURCES.is_dir():
        pytest.skip("an installed package has no sources")
    folder, built = tmp_path / "src", Path(_native.__file__)
    shutil.copytree(SOURCES, folder)
    older, newer = (built.stat().st_mtime + seconds for seconds in (-60, 60))
    source = folder / "notify" / "decide.c"
    os.utime(source, (newer, newer))
    require_fresh(folder)  # the control: touched, and the same
    source.write_text(source.read_text() + "\n")
    os.utime(source, (older, older))
    require_fresh(folder)  # dates come first: no import reads all sources
    os.utime(source, (newer, newer))
    with pytest.raises(ImportError, match=r"older than their sources. Hint: run `make setup`"):
        require_fresh(folder)
    require_fresh(tmp_path / "none")


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    package = Path(pyisolate.__file__).parent
    if not SOURCES.is_dir():
        pytest.skip("an installed package has no sources")
    shutil.copytree(package, tmp_path / "pyisolate", ignore=shutil.ignore_patterns("_native.*", "__pycache__"))
    command = [sys.executable, "-m", "pyisolate", "run", "-c", "print(1)"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60)
    hint = f"run `make setup`; where pyisolate is installed, start Python in another directory than {tmp_path}"
    assert done.stderr == f"pyisolate: the native parts are not built for this Python. Hint: {hint}\n"
    assert done.returncode == 1
