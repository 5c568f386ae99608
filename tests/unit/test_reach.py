"""A cell without a root view meets the host's permissions: the way to its interpreter is looked at before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.kernel.interpreter_access import first_closed, interpreter_out_of_reach
from tests.require import require

NOBODY = 65534
OWN, GROUP = os.getuid(), os.getgid()


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that everybody can reach: pytest's own temporary ones are private."""
    made = Path(tempfile.mkdtemp(prefix="pyisolate-reach-", dir="/tmp"))
    made.chmod(0o755)
    (made / "python/lib").mkdir(parents=True)
    yield made
    shutil.rmtree(made)


def test_the_first_closed_directory_is_named(home: Path) -> None:
    (home / "python").chmod(0o700)
    assert first_closed(str(home / "python/lib"), OWN, GROUP) is None
    assert first_closed(str(home / "python/lib"), OWN + 1, GROUP + 1) == str(home / "python")


@pytest.mark.parametrize(
    ("mode", "others", "group"),
    [(0o701, True, False), (0o710, False, True), (0o744, False, False), (0o755, True, True)],
)
def test_each_user_is_judged_by_its_own_bits(home: Path, mode: int, others: bool, group: bool) -> None:
    (home / "python").chmod(mode)
    assert (first_closed(str(home / "python"), OWN + 1, GROUP + 1) is None) is others
    assert (first_closed(str(home / "python"), OWN + 1, GROUP) is None) is group


def test_it_agrees_with_what_that_user_finds() -> None:
    require("root", os.geteuid() == 0, "only root can become another user")
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import this"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
            capture_output=True, check=False,
        )  # fmt: skip
        works = done.returncode == 0
    except PermissionError:
        works = False
    assert (interpreter_out_of_reach(NOBODY, NOBODY) is None) is works
