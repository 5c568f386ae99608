"""`pyisolate policy learn` as a user meets it: what it writes is enough for the next run, which differs a little."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy

COMMAND = [sys.executable, "-m", "pyisolate.cli.main", "policy", "learn"]


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory that a guest may write to whatever its uid, with a file and a link to it."""
    directory = Path(os.path.realpath(tempfile.mkdtemp(prefix="pyisolate-learn-", dir="/var/tmp")))
    directory.chmod(0o777)
    (directory / "data-2").mkdir(mode=0o755)
    (directory / "data-2" / "rows.csv").write_text("1,2")
    (directory / "current").symlink_to("data-2")
    yield directory
    shutil.rmtree(directory)


def learn(ground: Path, source: str, *options: str, args: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    script = ground / "job.py"
    script.write_text(source)
    return subprocess.run(
        [*COMMAND, *options, str(script), *args], capture_output=True, text=True, timeout=100, cwd=ground
    )


@pytest.mark.once
def test_modules_beside_a_script_and_in_an_archive_are_found(ground: Path) -> None:
    (ground / "helper.py").write_text("VALUE = 42\n")
    source = "import helper\nprint(helper.VALUE)\n"
    assert learn(ground, source, "-o", "script.yaml").stdout == "42\n"
    with zipfile.ZipFile(ground / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", source)
        archive.write(ground / "helper.py", "helper.py")
    done = subprocess.run([*COMMAND, "-o", "app.yaml", "app.pyz"], capture_output=True, timeout=100, cwd=ground)
    assert done.stdout == b"42\n", done.stderr
    for name, path in (("script.yaml", ground), ("app.yaml", ground / "app.pyz")):
        learned = Policy.load(ground / name)
        assert "helper" in {rule.name for rule in learned.imports}
        assert str(path) in {rule.path for rule in learned.files}


def test_a_script_that_fails_shows_its_own_line(ground: Path) -> None:
    done = learn(ground, "def half(x):\n    return x / 0\nhalf(1)\n", "-o", str(ground / "learned.yaml"))
    assert done.returncode == 1
    assert 'job.py", line 2, in half' in done.stderr
    assert "pyisolate: guest raised ZeroDivisionError" in done.stderr


def test_what_differs_from_run_to_run_is_learned_all_the_same(ground: Path) -> None:
    """A link's name, a temporary file's, and the shell's."""
    source = f"""
import os, tempfile
print(open("{ground}/current/rows.csv").read())
with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
    file.write(b"x")
assert os.system("exit 0") == 0
"""
    done = learn(ground, source, "-o", "learned.yaml", "--verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1,2\n")
    assert "verified: the same run is refused nothing" in done.stderr
    text = (ground / "learned.yaml").read_text()
    assert "# /var/tmp is everybody's" in text
    learned = Policy.load(ground / "learned.yaml")
    assert "/bin/sh" in "".join(rule.text for rule in learned.processes)
    assert learned.mode == "enforce"


def test_what_native_code_opens_is_learned_too(ground: Path) -> None:
    """A database makes its journal without telling the interpreter."""
    source = f"""
import sqlite3
with sqlite3.connect("{ground}/data.db") as database:
    database.execute("create table if not exists t(a)")
    database.execute("insert into t values (1)")
database.close()
"""
    done = learn(ground, source, "-o", "learned.yaml", "--verify")
    assert done.returncode == 0, done.stderr
    (rule,) = [rule for rule in Policy.load(ground / "learned.yaml").files if rule.path.startswith("/var")]
    assert rule.path == str(ground), "the journal comes and goes: the directory"
    assert {"create", "delete"} <= set(rule.allow)


def test_what_is_only_looked_at_is_learned_when_the_run_misses_it(ground: Path) -> None:
    done = learn(ground, f"import os\nprint(os.stat('{ground}/data-2/rows.csv').st_size)", "--verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("version: 1") == 1, "one policy, the last one"
    assert f"path: {ground}/data-2/rows.csv, allow: [read]" in done.stdout


def test_what_no_policy_can_grant_fails_the_verification(ground: Path) -> None:
    done = learn(ground, "import ctypes\nctypes.CDLL(None).unshare(0x10000000)", "--verify")
    assert done.returncode == 1
    assert "still refused: kernel.namespace" in done.stderr
    assert "# still refused (1): kernel.namespace" in done.stdout


def test_a_script_that_fails_is_learned_from_and_says_so(ground: Path) -> None:
    done = learn(ground, "import sys\nopen('/etc/hostname').read()\nraise ValueError(sys.argv[1])", args=("word",))
    assert "path: /etc/hostname" in done.stdout
    assert "ValueError" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("telemetry", ["default", "full"])
def test_an_ordinary_job_is_refused_nothing_under_preset_data(telemetry: str) -> None:
    """Libraries ask how many processors there are: `@processors` answers, and nothing else of /sys or /proc."""
    pytest.importorskip("pandas")
    data = Path(__file__).parents[2] / "docs" / "examples" / "penguins.csv"
    source = f"import io, os, numpy, pandas; os.cpu_count(); pandas.read_csv({str(data)!r}).describe()"
    probes = ("/proc/stat", "/proc/cpuinfo", "/sys/class/net", "/sys/fs/cgroup/memory.max", "/sys/kernel")
    policy = Policy.preset("data").allow_read(data)
    with (
        pyisolate.Supervisor(pool_size=0, telemetry=telemetry) as supervisor,
        supervisor.spawn("data", policy) as sandbox,
    ):
        sandbox.exec(source)
        assert [str(event) for event in sandbox.get_denial_events()] == []
        for path in probes:
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec(f"os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r})")
