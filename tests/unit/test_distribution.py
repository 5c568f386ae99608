"""One name, one version, and no other project's package around these files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pyisolate
from pyisolate.distribution import NAME, install_extra

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip fills it: this package's Python files."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "src", "objects")
    shutil.copytree(ROOT / "pyisolate", tmp_path / "pyisolate", ignore=ignored)
    (tmp_path / "pyisolate_kernel-1.0.dist-info").mkdir()
    return tmp_path


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    # -P: not from the folder that it is started in
    return subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_projects_name_is_the_one_in_the_hints_and_its_version_stands_in_one_file() -> None:
    assert PROJECT["name"] == NAME
    assert "version" in PROJECT["dynamic"]
    version = f'"{pyisolate.__version__}"'
    literals = [path for path in (ROOT / "pyisolate").rglob("*.py") if version in path.read_text()]
    assert literals == [ROOT / "pyisolate/distribution.py"]


def test_the_command_says_version_and_distribution() -> None:
    done = subprocess.run([sys.executable, "-m", "pyisolate.cli.main", "--version"], capture_output=True, text=True)
    assert done.stdout.split() == ["pyisolate", pyisolate.__version__, f"({NAME})"]


def test_every_hint_names_an_extra_that_there_is() -> None:
    files = [path for folder in ("pyisolate", "docs") for path in (ROOT / folder).rglob("*.*")]
    text = "\n".join(path.read_text() for path in files if path.suffix in (".py", ".md"))
    named = re.findall(r"install_extra\(\"(\w+)\"\)", text) + re.findall(rf"{NAME}\[(\w+)\]", text)
    assert {"otel", "test"} <= set(named) <= set(PROJECT["optional-dependencies"])
    assert install_extra("otel") == f"pip install '{NAME}[otel]'"
    assert not re.search(r"pip install[^\n]*\bpyisolate(?!-kernel)\b", text)


def test_another_distribution_in_the_same_folder_is_an_error_that_names_it(site: Path) -> None:
    assert run(site, "import pyisolate; print(pyisolate.__version__)").stdout.strip() == pyisolate.__version__
    (site / "pyisolate-0.10.2.dist-info").mkdir()
    done = run(site, "import pyisolate")
    assert done.returncode == 1
    assert "ImportError: import pyisolate: the distribution pyisolate 0.10.2 is installed in" in done.stderr
    assert "Hint: pip uninstall -y pyisolate pyisolate-kernel" in done.stderr


def test_the_command_says_that_another_projects_package_lies_over_this_one(site: Path) -> None:
    assert run(site, "import pyisolate.cli.main; print('ok')").stdout.strip() == "ok"
    (site / "pyisolate/__init__.py").write_text("__version__ = '0.10.2'\n")
    done = run(site, "import pyisolate.cli.main")
    assert "ImportError: import pyisolate: its __init__ is not that of pyisolate-kernel" in done.stderr
