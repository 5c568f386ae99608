"""The table of docs/libraries.md: written by the command, read by a test."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .jobs import JOBS, Job

PAGE = Path(__file__).resolve().parents[2] / "docs" / "libraries.md"
_TABLE = re.compile(r"(?<=<!-- table: python -m tests.libraries -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
_HEAD = "\n| library | version | under | works | denials | beside the preset |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """What came of one library's job."""

    library: str
    version: str
    preset: str
    works: bool
    error: str = ""
    denials: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def line_beside(job: Job) -> str:
    """Return what a user of the library writes beside the preset, as text of the table."""
    lines = [f"`{key}: {json.dumps(value)}`" for key, value in job.grant.items()]
    if job.env:
        lines.append(f"`env={json.dumps(job.env)}`")
    return ", ".join(lines).replace('"', "").replace("{python}", "the interpreter")


def replace_table(text: str, rows: list[Row]) -> str:
    """Return the page with these rows as its table."""
    jobs = {job.library: job for job in JOBS}
    lines = []
    for row in rows:
        refused = "; ".join(f"`{one}`" for one in row.denials) or "none"
        works = "yes" if row.works else "no"
        beside = line_beside(jobs[row.library])
        lines.append(f"| {row.library} | {row.version} | `{row.preset}` | {works} | {refused} | {beside} |\n")
    return _TABLE.sub(lambda _: _HEAD + "".join(lines) + "\n", text)


def read_table(text: str) -> dict[str, list[str]]:
    """Return library -> the other cells of its row."""
    found = _TABLE.search(text)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in (found[0] if found else "").splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 6 and row[0] not in ("library", "---")}
