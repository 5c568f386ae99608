"""A file that somebody else has locked is waited for, and no longer than is said."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from pyisolate.native.file_lock import lock_within


@pytest.mark.parametrize(("released_s", "timeout_s", "locked"), [(3, 5.0, True), (7, 5.0, False), (0.005, 0.0, False)])
def test_a_lock_is_waited_for_by_the_clock(tmp_path: Path, released_s: float, timeout_s: float, locked: bool) -> None:
    time_s = 0.0
    with (tmp_path / "f").open("w") as theirs, (tmp_path / "f").open() as ours:
        fcntl.flock(theirs, fcntl.LOCK_EX)

        def pause(seconds: float) -> None:
            nonlocal time_s
            time_s += seconds
            if time_s >= released_s:
                fcntl.flock(theirs, fcntl.LOCK_UN)

        assert lock_within(ours.fileno(), timeout_s, now=lambda: time_s, pause=pause) is locked
        assert time_s <= timeout_s + 0.02
        if locked:
            with pytest.raises(BlockingIOError):
                fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
