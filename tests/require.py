"""Skips are claims: `PYISOLATE_REQUIRE=landlock,vm` turns a skip for one of those features into a failure."""

from __future__ import annotations

import os

import pytest


def require(feature: str, present: bool, reason: str) -> None:
    """Skip the test when `feature` is not there, unless the environment says that it must be."""
    if present:
        return
    wanted = {name.strip() for name in os.environ.get("PYISOLATE_REQUIRE", "").split(",") if name.strip()}
    if feature in wanted or "all" in wanted:
        pytest.fail(f"{feature} is required (PYISOLATE_REQUIRE) but missing: {reason}")
    pytest.skip(f"{feature} missing: {reason}")
