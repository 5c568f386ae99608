"""Fixtures of the host tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pyisolate


@pytest.fixture
def supervisor() -> Iterator[pyisolate.Supervisor]:
    """A supervisor of its own for each test: the leak check sees what it leaves."""
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made
