"""An extension that is older than its sources is named at the import, with what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

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
