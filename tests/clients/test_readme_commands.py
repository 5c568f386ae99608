"""The commands of README run as they are written, in order, in a tree that nothing has been built in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
_SECTIONS = ("Install", "Two minutes")


def commands() -> list[str]:
    """Return the indented lines of those sections; a line that ends in a backslash goes on."""
    text = (ROOT / "README.md").read_text()
    found: list[str] = []
    for title in _SECTIONS:
        section = re.search(rf"^## {title}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
        assert section is not None
        prose = re.sub(r"^```.*?^```", "", section[1], flags=re.MULTILINE | re.DOTALL)
        found += re.findall(r"^    (\S(?:.*\\\n)*.*)$", prose, re.MULTILINE)
    return found


@pytest.fixture
def clone() -> Iterator[Path]:
    """The tree's own files, as a clone would have them."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    require("git", bool(names), "this is no work tree of git")
    directory = Path(tempfile.mkdtemp(prefix="pyisolate-clone-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        for name in names:
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, directory / name)
        yield directory
    finally:
        shutil.rmtree(directory)


def test_there_are_commands_from_the_packages_to_the_demo() -> None:
    words = [line.split()[0] for line in commands()]
    assert words[0] == "apt"
    assert commands()[-1].startswith("pyisolate demo")
    assert len(words) >= 10


@pytest.mark.timeout(580)
def test_they_run_in_order(clone: Path) -> None:
    require("apt", shutil.which("apt-get") is not None, "this is no Debian")
    packages, *rest = commands()
    assert packages.startswith("apt install ")
    steps = [packages.replace("apt install", "apt-get install --simulate --quiet"), *rest]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    (clone / "commands.sh").write_text("set -euo pipefail\n" + "\n".join(f"{step}\necho did: $?" for step in steps))
    done = subprocess.run(
        ["bash", "commands.sh"], cwd=clone, env=environment, capture_output=True, text=True, timeout=570, check=False
    )
    if "pip install" in rest[2] and re.search(r"No matching distribution|Could not (fetch|find)", done.stderr):
        require("registry", False, "pip cannot reach a package registry")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("did: 0") == len(steps)
    assert "refused: " in done.stdout
    assert "read True" in done.stdout
    assert (clone / "out/report.csv").stat().st_size > 0
