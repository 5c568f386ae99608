"""Guests in another interpreter than the host's: here one of a virtual environment, of the same version."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import venv
from pathlib import Path

import cloudpickle
import msgspec
import pytest

import pyisolate
from pyisolate import PolicyError, SandboxError
from pyisolate.cell.pickled import reader_of

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with a package of its own, which finds this checkout and what that needs by a .pth file."""
    place = tmp_path_factory.mktemp("venv")
    os.chmod(tmp_path_factory.getbasetemp(), 0o755)  # cells of root are another user
    os.chmod(place, 0o755)
    venv.EnvBuilder(symlinks=True).create(place)
    (site,) = place.glob("lib/python*/site-packages")
    places = (Path(pyisolate.__file__).parents[1], Path(msgspec.__file__).parents[1])
    (site / "host.pth").write_text("".join(f"{one}\n" for one in places))
    (site / "of_the_venv.py").write_text("value = 42\n")
    return place / "bin" / "python"


def test_guests_run_in_it_and_have_its_packages(python: Path) -> None:
    policy = pyisolate.Policy.preset("compute").allow_import("of_the_venv")
    with pyisolate.Supervisor(pool_size=0, python=python) as supervisor:
        with supervisor.spawn("venv", policy) as sandbox:
            assert sandbox.eval("__import__('sys').prefix") == str(python.parents[1])
            assert sandbox.eval("__import__('of_the_venv').value") == 42
            assert sandbox.call(lambda: 1) == 1
            with pytest.raises(PolicyError):
                sandbox.exec("open('/etc/shadow')")
        with pytest.raises(ValueError, match="isolation='process'"):
            supervisor.spawn("thread", policy, isolation="thread")
    assert importlib.util.find_spec("of_the_venv") is None  # the host's interpreter has no such package


@pytest.mark.parametrize(("given", "why"), [("/nonexistent/python", "no such program"), ("bare", "No module named")])
def test_one_without_this_package_is_refused(given: str, why: str, tmp_path: Path) -> None:
    if given == "bare":
        venv.EnvBuilder(symlinks=True).create(tmp_path / "bare")
        given = str(tmp_path / "bare/bin/python")
    with pytest.raises(SandboxError, match=why) as caught:
        pyisolate.Supervisor(python=given)
    assert caught.value.hint


def test_bytecode_of_another_version_is_refused_and_data_is_not() -> None:
    read = reader_of("cpython-39")
    with pytest.raises(TypeError, match="cannot run here"):
        read(cloudpickle.dumps(lambda: 1))
    assert read(cloudpickle.dumps(([1], {"a": os.path.join}))) == ([1], {"a": os.path.join})
    assert reader_of(sys.implementation.cache_tag or "") is pickle.loads
