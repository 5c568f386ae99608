"""The page about escapes says in short what the records say of each technique."""

from __future__ import annotations

from pathlib import Path

from tests.escape.document import document, summary
from tests.escape.harness import Outcome
from tests.escape.technique import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_what_is_not_stopped_and_the_records_have_every_technique() -> None:
    techniques = list(load())
    results = {"host-root": {one.key: Outcome(one, "host-root") for one in techniques}}
    red = {"seccomp": {"host-root": {"tried": ["x/y"], "through": ["x/y"], "otherwise": []}}}
    page, records = summary(techniques, results, red), document(techniques, results, red)
    for one in techniques:
        assert f"`{one.name}`: " in records
        assert (f"`{one.key}` | everywhere" in page) == bool(one.gap)
    assert "| seccomp | host-root | 1 | 1 | 0 |" in page
    assert "- get through: x: y" in records
    assert len(page) < len(records) / 10


def test_the_page_in_the_tree_is_short_and_names_the_records() -> None:
    page = (ROOT / "docs/escapes.md").read_text()
    assert len(page) < 20_000
    assert "tests/escape/records/results.md" in page
    assert (ROOT / "tests/escape/records/results.md").exists()
