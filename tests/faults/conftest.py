"""Fixtures of the faults tier: what fails is put back, and nothing may be left, temporary files included."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate

#: Which random instants a run met; set it to meet them again.
SEED = int(os.environ.get("PYISOLATE_FAULTS_SEED", random.SystemRandom().randrange(1 << 32)))


MARKERS = (
    "tried_again: the test itself sees that the next spawn works",
    "at_its_end: the test's own supervisor cannot spawn any more, and must say so",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_report_header() -> str:
    return f"faults: PYISOLATE_FAULTS_SEED={SEED}"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random instants, different in each test and the same for the same seed."""
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture
def supervisor() -> Iterator[pyisolate.Supervisor]:
    """A supervisor of its own for each test: the leak check sees what it leaves."""
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


@pytest.fixture
def data() -> Iterator[Path]:
    """A directory that cells may reach whatever their uid, unlike those of `tmp_path`."""
    directory = Path(f"/tmp/pyisolate-test-{os.getpid()}-{time.monotonic_ns()}")
    directory.mkdir(mode=0o755)
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place for temporary files, here and in what a test starts: it must be empty afterwards."""
    directory = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert sorted(path.name for path in directory.iterdir()) == []


@pytest.fixture(autouse=True)
def _the_next_spawn_works(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test broke: afterwards its supervisor runs a guest, or a new one does where that is at its end.

    Tests that say `tried_again` have done so themselves.
    """
    yield
    if request.node.get_closest_marker("tried_again"):
        return
    used = request.node.funcargs.get("supervisor")
    if used is not None and used.diagnostics().state == "running" and not request.node.get_closest_marker("at_its_end"):
        runs_a_guest(used)
        return
    with pyisolate.Supervisor(pool_size=0) as fresh:
        runs_a_guest(fresh)


def runs_a_guest(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("next") as sandbox:
        assert sandbox.eval("6 * 7") == 42
