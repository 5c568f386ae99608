"""Waiting for what another thread or process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Return once `true()` is; fail, with what it said last, where it is not `within_s`."""
    end = time.monotonic() + within_s
    while not (said := true()):
        assert time.monotonic() < end, f"it never came true, and was {said!r} last"
        time.sleep(0.005)
