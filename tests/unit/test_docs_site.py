"""The docs site shows every page and every public name; `make docs` checks its links and anchors."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import pyisolate

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def pages(entry: Any) -> list[str]:
    """Return the pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]


def test_the_navigation_has_every_page_once() -> None:
    shown = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(shown) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_reference_has_every_public_name_once() -> None:
    names = re.findall(r"^::: pyisolate\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(pyisolate.__all__)


@pytest.mark.parametrize("name", pyisolate.__all__)
def test_what_the_reference_shows_has_a_text(name: str) -> None:
    value = getattr(pyisolate, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        members = inspect.getmembers_static(
            value, lambda member: inspect.isroutine(member) or isinstance(member, property)
        )
        ours = [(key, member) for key, member in members if not key.startswith("_") and _is_ours(member)]
        assert [key for key, _ in ours if not inspect.getdoc(getattr(value, key))] == []


def _is_ours(member: Any) -> bool:
    function = member.fget if isinstance(member, property) else inspect.unwrap(getattr(member, "__func__", member))
    return str(getattr(function, "__module__", "")).startswith("pyisolate")
