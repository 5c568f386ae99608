"""For tests of thread isolation: limits that a sandbox thread cannot hold, taken out, so that strict takes the rest."""

from __future__ import annotations

WITHOUT_UNHELD = {"memory": None, "processes": None, "open_files": None, "file_size": None}
