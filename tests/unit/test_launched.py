"""The guest's side of a program that runs beside its requests: attended to wholly, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyisolate.cell.launched import Programs
from pyisolate.cell.wire import PROGRAM_REPORT


def launch(programs: Programs, orders: int) -> int:
    """Launch `true`, and return where its reports come."""
    reports, writing = os.pipe()
    try:
        programs.launch(
            [os.open(os.devnull, os.O_RDWR) for _ in range(3)] + [orders, writing], ["true"], "/", None, False
        )
    except BaseException:
        os.close(reports)
        raise
    return reports


def test_a_program_that_the_kernel_has_no_room_to_watch_leaves_nothing(tmp_path: Path) -> None:
    """A file in the place of its orders cannot be watched (`epoll_ctl(2)`): the error comes at the same place."""
    programs, threads = Programs(), set(os.listdir("/proc/self/task"))
    (tmp_path / "file").touch()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError):
        launch(programs, os.open(tmp_path / "file", os.O_RDONLY))
    assert set(os.listdir("/proc/self/task")) <= threads
    assert set(os.listdir("/proc/self/fd")) == before
    orders, ours = os.pipe()
    reports = launch(programs, orders)
    assert PROGRAM_REPORT.unpack(os.read(reports, 2)) == (0,)
    for descriptor in (reports, ours):
        os.close(descriptor)
