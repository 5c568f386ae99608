"""What a type checker, and so an editor, knows of the public functions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import pyisolate
from typing_extensions import assert_type

async def use(supervisor: pyisolate.Supervisor) -> None:
    cell = supervisor.spawn("a", "compute", enforcement="best_effort", cwd="/")
    assert_type(cell, pyisolate.Sandbox)
    assert_type(supervisor.spawn("b", isolation="thread"), pyisolate.SandboxThread)
    assert_type(pyisolate.spawn("c", isolation="thread"), pyisolate.SandboxThread)
    assert_type(await pyisolate.aspawn("d"), pyisolate.Sandbox)
    assert_type(await supervisor.aspawn("e", isolation="thread"), pyisolate.SandboxThread)
    assert_type(pyisolate.list_active(), "list[pyisolate.Sandbox | pyisolate.SandboxThread]")
    assert_type(cell.exec("1"), pyisolate.Result)
    assert_type(await cell.aexec("1"), pyisolate.Result)
    cell.exec("1", timeout=2)
"""
MISTAKES = {
    'cell.exce("1")': '"Sandbox" has no attribute "exce"',
    'cell.exec("1", timout=2)': 'Unexpected keyword argument "timout"',
    'pyisolate.spawn("f", isolation="thread").run_script("", filename="x")': "has no attribute",
    'pyisolate.spawn("g", isolation="cell")': "No overload variant",
    'supervisor.spawn("h", enforcment="strict")': "No overload variant",
    'supervisor.sandboxes[0].exce("1")': "has no attribute",
}


def check(program: Path) -> list[str]:
    cache = ROOT / ".mypy_cache" if os.access(ROOT, os.W_OK) else program.parent / "cache"  # the tree may be another's
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent"]
    command += [f"--cache-dir={cache}", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_type_checker_knows_what_spawn_returns_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    lines = PROGRAM.count("\n")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "".join(f"    {line}\n" for line in MISTAKES))
    found = check(program)
    errors = {int(line.split(":")[1]): line for line in found}
    assert sorted(errors) == [lines + 1 + number for number in range(len(MISTAKES))], found
    for number, said in enumerate(MISTAKES.values()):
        assert said in errors[lines + 1 + number]
