"""How many examples a slow property is tried with: some in each run, all in `make fuzz`, which has the time."""

from __future__ import annotations

import os


def examples(all_of_them: int) -> int:
    """Return the number for this run: a fifth of all, and ten at the least."""
    return all_of_them if os.environ.get("PYISOLATE_EXAMPLES") == "all" else max(10, all_of_them // 5)
