"""The fixtures and the marker, in a pytest of their own, as a user's tests have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
import pyisolate
from pyisolate.testing import assert_allowed, assert_denied

def test_the_default_is_compute(sandbox, policy):
    assert policy.name == "compute"
    assert sandbox.eval("6 * 7") == 42
    assert_denied(sandbox, "open('/etc/hostname')", capability="fs.read")

@pytest.mark.sandbox(policy=pyisolate.Policy.preset("compute").allow_read("/etc/hostname"))
def test_the_marker_says_what_is_granted(sandbox):
    assert_allowed(sandbox, "open('/etc/hostname').read()")

@pytest.mark.sandbox("compute", limits={"wall": "1s"}, env={"COLOUR": "blue"})
class TestOfAClass:
    @pytest.mark.parametrize("name", ["ü [x]/y", "a" * 300])
    def test_its_options_hold(self, sandbox, name):
        assert sandbox.policy.limits.wall_s == 1.0
        assert sandbox.eval("__import__('os').environ['COLOUR']") == "blue"

    @pytest.mark.sandbox(env={"COLOUR": "red"})
    def test_the_nearest_marker_counts(self, sandbox):
        assert sandbox.policy.limits.wall_s == 1.0
        assert sandbox.eval("__import__('os').environ['COLOUR']") == "red"

def test_each_test_has_its_own(sandbox):
    sandbox.exec("x = 1")

def test_and_finds_nothing_of_another(sandbox):
    with pytest.raises(pyisolate.GuestError):
        sandbox.eval("x")

def test_a_failure_shows_what_was_refused(sandbox):
    sandbox.exec("try: open('/etc/passwd')\\nexcept OSError: pass")
    raise AssertionError("on purpose")
"""


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A pytest that knows nothing of this project's configuration, without the caches of another."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--strict-markers",
        "-p",
        "no:cacheprovider",
        f"--rootdir={directory}",
    ]
    return subprocess.run(
        [*command, *options, str(directory)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_fixtures_are_there_and_do_what_the_marker_says(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    done = run(tmp_path)
    assert "1 failed, 7 passed" in done.stdout, done.stdout[-3000:]
    assert "refused in the sandbox: " in done.stdout
    assert "/etc/passwd" in done.stdout


def test_a_projects_own_fixtures_take_their_place(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest, pyisolate\n"
        "@pytest.fixture\ndef policy():\n    return pyisolate.Policy.preset('compute').with_name('ours')\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(sandbox):\n    assert sandbox.policy.name == 'ours'\n")
    assert "1 passed" in run(tmp_path).stdout


def test_the_marker_is_documented_and_a_test_without_it_loads_nothing(tmp_path: Path) -> None:
    assert "@pytest.mark.sandbox(policy=None, **options)" in run(tmp_path, "--markers").stdout
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n    assert 'pyisolate.supervisor' not in sys.modules\n"
    )
    assert "1 passed" in run(tmp_path).stdout
