"""Fixtures of the host tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pyisolate


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
