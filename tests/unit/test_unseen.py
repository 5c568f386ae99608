"""Packages that a host's user has and no guest finds are named, with what each place is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyisolate.cli.doctor_checks import unseen_packages
from pyisolate.policy.interpreter import InterpreterFiles
from pyisolate.policy.unseen import why_unseen


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a user's site, an active environment and a PYTHONPATH; each has a module of its own."""
    below = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for directory, module in ((f"base/{below}", "of_user"), (f"venv/{below}", "of_venv"), ("path", "of_path")):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / f"{module}.py").touch()
    monkeypatch.setattr("site.USER_SITE", str(tmp_path / "base" / below))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"relative:{tmp_path / 'path'}:{tmp_path / 'none'}")
    return tmp_path


@pytest.mark.parametrize(
    ("module", "what"),
    [("of_user", "pip install --user"), ("of_venv", "another environment (VIRTUAL_ENV)"), ("of_path", "of PYTHONPATH")],
)
def test_a_module_is_named_with_its_place(user: Path, module: str, what: str) -> None:
    told = why_unseen(module, InterpreterFiles.discover())
    assert told is not None
    assert (what in told, str(user) in told, sys.executable in told) == (True, True, True)


def test_what_is_nowhere_or_where_guests_look_is_not_named(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_unseen("of_nobody", InterpreterFiles.discover()) is None
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)  # this interpreter's own, as its `activate` sets it
    assert why_unseen("of_venv", InterpreterFiles.discover()) is None
    assert not any(sys.prefix in finding.text for finding in unseen_packages())


def test_doctor_lists_the_places(user: Path) -> None:
    assert [finding.text.partition(":")[0].startswith(str(user)) for finding in unseen_packages()] == [True] * 3
