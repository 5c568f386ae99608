"""docs/libraries.md and the command that writes its table agree."""

from __future__ import annotations

from tests.libraries.jobs import JOBS
from tests.libraries.page import PAGE, Row, line_beside, read_table, replace_table


def test_the_page_has_a_row_for_each_library_as_the_command_would_write_it() -> None:
    table = read_table(PAGE.read_text())
    assert list(table) == [job.library for job in JOBS]
    for job in JOBS:
        version, preset, works, _denials, beside = table[job.library]
        assert (preset, works, beside) == (f"`{job.preset}`", "yes", line_beside(job))
        assert version[0].isdigit()


def test_a_table_that_is_written_can_be_read() -> None:
    rows = [Row("numpy", "9.9", "data", False, "why", ["fs.read /a", "fs.read /b"])]
    text = replace_table(PAGE.read_text(), rows)
    assert read_table(text) == {"numpy": ["9.9", "`data`", "no", "`fs.read /a`; `fs.read /b`", ""]}
    assert replace_table(text, rows) == text


def test_jobs_are_valid_programs() -> None:
    for job in JOBS:
        compile(job.source, job.library, "exec")
