"""The checklists for contributors name places that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
LISTS = dict(re.findall(r"^## Add an? ([\w ]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("what", ["hook", "capability", "event field", "metric", "enforcer"])
def test_there_is_a_checklist_with_code_tests_and_docs(what: str) -> None:
    steps = re.findall(r"^- \[ \] (.*?)(?=^- \[ \]|\Z)", LISTS[what], re.MULTILINE | re.DOTALL)
    assert len(steps) >= 4
    for folder in ("pyisolate/", "tests/", "docs/"):
        assert f"`{folder}" in LISTS[what]


def test_what_it_names_is_there() -> None:
    named = re.findall(r"`((?:pyisolate|tests|docs|bpf)/[\w/.-]+)`", TEXT)
    assert len(named) > 40
    assert sorted({name for name in named if not (ROOT / name).exists()}) == []


def test_sources_and_the_architecture_name_files_that_are_there() -> None:
    sources = [path for folder in ("pyisolate", "bpf") for path in (ROOT / folder).rglob("*.[pch]*")]
    files = [f"/{path.relative_to(ROOT)}" for path in (*sources, *(ROOT / "tests").rglob("*.py"))]
    texts = [ROOT / "docs/architecture.md", *(path for path in sources if path.suffix in (".py", ".c", ".h"))]
    named = [(path, name) for path in texts for name in re.findall(r"`([\w/-]+\.(?:py|[ch]))`", path.read_text())]
    assert len(named) > 120
    assert [(str(path), name) for path, name in named if not any(one.endswith(f"/{name}") for one in files)] == []


def test_the_commands_that_it_names_are_targets_of_make() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([\w-]+)", TEXT)) <= targets | {"help"}


def test_the_hooks_before_a_commit_are_local_and_run_programs_that_are_there() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        words = hook["entry"].split()
        assert words[0] == ".venv/bin/python"
        assert words[1] == "-m" or (ROOT / words[1]).exists()
