"""Fixtures of the host tier."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.limits.cgroup import CgroupTree
from tests.require import require


@pytest.fixture(scope="module")
def kept_supervisor() -> Iterator[pyisolate.Supervisor]:
    """One for a file that asks for it by `usefixtures`: a start takes half a second, which few tests are about."""
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


@pytest.fixture
def supervisor(request: pytest.FixtureRequest) -> Iterator[pyisolate.Supervisor]:
    """The file's, where it keeps one; else one for each test: the leak check sees what it leaves."""
    if "kept_supervisor" in request.fixturenames:
        yield request.getfixturevalue("kept_supervisor")
        return
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    """Files that every user may read and no rule speaks of."""
    top = Path("/var/tmp") / f"pyisolate-ask-{os.getpid()}"
    top.mkdir(mode=0o755)
    (top / "data").write_text("asked")
    (top / "other").write_text("not asked")
    yield top
    shutil.rmtree(top)


@pytest.fixture
def tree() -> Iterator[CgroupTree]:
    """Control groups as a supervisor makes them; a test that asks for them is left out where there can be none."""
    made, availability = CgroupTree.open()
    require("cgroup", made is not None, availability.reason)
    assert made is not None
    with made:
        yield made
