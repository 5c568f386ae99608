"""Every Python example of README and the guides runs, and prints what its comments say."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

pytestmark = pytest.mark.once


ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/getting-started.md", "docs/architecture.md", "docs/examples.md", "docs/threat-model.md",
         "docs/kernel-support.md", "docs/api.md", "docs/deployment.md", "docs/values.md",
         "docs/host-functions.md", "docs/ask.md", "docs/egress.md", "docs/cookbook.md")  # fmt: skip
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_EXPECTED = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")


def examples() -> list[tuple[str, str]]:
    """Return (name, source) of every fenced Python block."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for match in _BLOCK.finditer(text):
            found.append((f"{page}:{text.count(chr(10), 0, match.start()) + 1}", match[1]))
    return found


@pytest.mark.parametrize(("name", "source"), examples(), ids=[name for name, _ in examples()])
def test_the_example_does_what_it_says(name: str, source: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(source)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    printed = done.stdout.splitlines()
    for wanted in _EXPECTED.findall(source):
        assert any(fnmatchcase(line, wanted.replace("[", "[[]").replace("...", "*")) for line in printed), (
            f"{name}: no line reads {wanted!r}:\n{done.stdout}"
        )


def test_there_are_examples_and_they_state_what_they_print() -> None:
    assert len(examples()) >= 10
    assert sum(len(_EXPECTED.findall(source)) for _, source in examples()) >= 20


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") < 150


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))])  # fmt: skip
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in _LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), f"{page}: {target}"


def test_the_threat_model_names_tests_that_exist() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    named = set(re.findall(r"`((?:unit|host|vm|clients)/test_\w+\.py)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).exists()] == []


def test_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|c))`", text))
    package = {str(path.relative_to(ROOT / "pyisolate")) for path in (ROOT / "pyisolate").rglob("*.*")}
    short = {path.rpartition("/")[2] for path in package}
    assert len(named) > 30
    assert [name for name in sorted(named) if name not in package and name not in short] == []


def test_what_was_learned_is_enough_and_each_rule_is_needed() -> None:
    pytest.importorskip("pandas")
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/examples/learn_and_enforce.py")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 denials" in done.stdout
    assert done.stdout.count("\nwithout ") >= 2
