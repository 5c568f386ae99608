"""The public names: exported, importable, documented, and nothing else."""

from __future__ import annotations

import importlib
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


@pytest.mark.parametrize("name", pyisolate.__all__)
def test_each_name_comes_from_where_the_table_says(name: str) -> None:
    value = getattr(pyisolate, name)
    home = importlib.import_module(f"pyisolate.{pyisolate._HOME[name]}")
    assert value is getattr(home, name)
    assert value.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("first", pyisolate.__all__)
def test_no_module_hides_a_public_name(first: str) -> None:
    """Importing a submodule sets an attribute of the package: it must not be one of the public names."""
    home = pyisolate._HOME[first].partition(".")[0]
    assert home not in pyisolate.__all__ or home == "metrics"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'spwan'"):
        _ = pyisolate.spwan


def test_importing_starts_and_loads_nothing() -> None:
    program = (
        "import sys, threading, os; before = set(os.listdir('/proc/self/fd')); import pyisolate\n"
        "loaded = [m for m in sys.modules if m.startswith('pyisolate.')]\n"
        "print(loaded, threading.active_count(), set(os.listdir('/proc/self/fd')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1 set()"
