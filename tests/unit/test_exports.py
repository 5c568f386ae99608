"""The public names: exported, importable, documented, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyisolate

API = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def documented() -> dict[str, str]:
    """Return name -> line of docs/api.md."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", API.read_text(), re.MULTILINE))


def test_the_docs_list_every_public_name_and_no_other() -> None:
    assert set(documented()) == set(pyisolate.__all__)


def test_each_name_is_listed_once_and_says_something() -> None:
    names = re.findall(r"^\| `(\w+)` \|", API.read_text(), re.MULTILINE)
    assert len(names) == len(set(names))
    assert all(len(text) > 8 for text in documented().values())


def test_all_agrees_with_the_homes() -> None:
    assert len(pyisolate.__all__) == len(set(pyisolate.__all__))
    assert set(pyisolate.__all__) == set(pyisolate._HOME)
    assert dir(pyisolate) == sorted(pyisolate.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(pyisolate.__file__).read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: (node.module or "")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == pyisolate._HOME


@pytest.mark.parametrize("name", pyisolate.__all__)
def test_each_name_comes_from_where_the_table_says(name: str) -> None:
    value = getattr(pyisolate, name)
    home = pyisolate._HOME[name]
    module = importlib.import_module(f"pyisolate.{home or name}")
    assert value is (getattr(module, name) if home else module)
    assert value.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("first", pyisolate.__all__)
def test_no_module_hides_a_public_name(first: str) -> None:
    """Importing a submodule sets an attribute of the package: it must not be one of the public names."""
    home = pyisolate._HOME[first].partition(".")[0]
    assert home not in pyisolate.__all__ or home == "metrics"


#: What users may rely on, beside the names in `__all__`: adding to it is a decision, taking away breaks them.
SANDBOX = """
    acall aclose aeval aexec answered_policy arecv call close closed denials enforcement eval exec function
    function_stubs get_denial_events id interrupt isolation kill limits name pid policy post recv reload_policy stats
"""
METHODS = {
    "Sandbox": SANDBOX + "apopen arun files init_pid popen run run_script trace",
    "SandboxThread": SANDBOX,
    "GuestProcess": "communicate denials kill pid poll returncode send_signal terminate wait",
    "AsyncGuestProcess": "communicate denials kill pid returncode send_signal terminate wait",
    "Supervisor": "aspawn close closed diagnostics kill recorder reload_policy sandboxes spawn start",
}


@pytest.mark.parametrize("name", METHODS)
def test_public_classes_have_these_members_and_no_other(name: str) -> None:
    public = getattr(pyisolate, name)
    members = {member for member in dir(public) if not member.startswith("_")}
    assert members == set(METHODS[name].split())
    for member in members:
        assert inspect.getdoc(inspect.getattr_static(public, member)), f"{name}.{member} has no docstring"


@pytest.mark.parametrize("name", ["spawn", "aspawn"])
def test_spawn_names_its_arguments(name: str) -> None:
    here, there = (inspect.signature(one) for one in (getattr(pyisolate, name), pyisolate.Supervisor.spawn))
    assert list(here.parameters) == list(there.parameters)[1:]
    assert "enforcement" in here.parameters


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'spwan'"):
        _ = pyisolate.spwan


def test_importing_starts_nothing_and_loads_only_the_look_at_whose_files_these_are() -> None:
    program = (
        "import sys, threading, os; before = set(os.listdir('/proc/self/fd')); import pyisolate\n"
        "loaded = [m for m in sys.modules if m.startswith('pyisolate.')]\n"
        "print(loaded, threading.active_count(), set(os.listdir('/proc/self/fd')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pyisolate.distribution'] 1 set()"
