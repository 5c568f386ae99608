"""What the tests of clusters have their workers do."""

from __future__ import annotations

import time
from collections.abc import Callable


def slow_reader() -> Callable[[str], str]:
    """Return a function, which travels by value, that takes a moment and returns the path that it was refused."""

    def slow(path: str) -> str:
        time.sleep(0.2)
        try:
            open(path).close()
        except OSError:
            return path
        return "read"

    return slow
