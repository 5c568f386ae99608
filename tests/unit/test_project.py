"""What `run` takes for a project, and what for its own options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyisolate.cli.project import Script, chosen_script, with_project
from pyisolate.cli.run import run
from pyisolate.policy import Policy

COMPUTE = Policy.preset("compute")


def project(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for path in (directory, *directory.parents[:3]):
        path.chmod(0o755)
    (directory / "main.py").write_text("")
    (directory / "no-module.py").write_text("")
    (directory / "package").mkdir()
    (directory / "package" / "__init__.py").write_text("")
    (directory / "data").mkdir()
    return directory


def test_modules_beside_a_script_are_granted_by_name(tmp_path: Path) -> None:
    place = project(tmp_path / "p")
    policy, script = with_project(COMPUTE, Script("", "x", directory=str(place)), grant=True)
    assert script.directory == str(place)
    added = policy.to_dict()["import"]["allow"]
    assert {"main", "package"} <= set(added)
    assert not {"no-module", "data"} & set(added)
    assert with_project(COMPUTE, Script("", "x", directory=str(place)), grant=False) == (COMPUTE, Script("", "x"))
    granted = COMPUTE.allow_read(place)
    assert with_project(granted, Script("", "x", directory=str(place)), grant=False)[1].directory == str(place)


def test_a_place_that_cannot_be_listed_is_no_project(tmp_path: Path) -> None:
    assert with_project(COMPUTE, Script("", "x", directory=str(tmp_path / "gone")), grant=True)[0] == COMPUTE


def test_the_command_line_names_one_thing_to_run(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("1")
    link = tmp_path / "link.py"
    os.symlink(script, link)
    assert chosen_script((str(link), "a"), None, None).directory == str(tmp_path.resolve())
    assert chosen_script(("a",), "1", None) == Script("1", "<string>", ("a",), program="-c")
    assert chosen_script(("a",), None, "json.tool").program == "json.tool"
    with pytest.raises(ValueError, match="it is a directory without"):
        chosen_script((str(tmp_path),), None, None)


@pytest.mark.parametrize("words", [[], ["-m"], ["--json", "-c"]])
def test_other_command_lines_are_wrong(words: list[str]) -> None:
    assert CliRunner().invoke(run, words).exit_code == 2
