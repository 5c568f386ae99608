"""An interpreter below a directory of mode 0700 serves guests of another user, in every mode."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.require import require

ROOT = Path(__file__).resolve().parents[2]

SPAWN = """
import os, sys
import pyisolate
from pyisolate import Policy

policy, shadow = eval(sys.argv[1])
with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn("guest", policy, shadow=shadow) as sandbox:
    print(sandbox.eval("os.getuid()" if sandbox.exec("import json, os, only_here") else ""))
    print(sandbox.eval("only_here.VALUE"))
    seen = sandbox.eval(f"[os.path.exists(path) for path in {sys.argv[2:]!r}]")
    print(*seen)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A private home with an environment, one module of its own in it, and a secret."""
    require("root", os.geteuid() == 0, "an ordinary user's guests are that user")
    directory = Path(tempfile.mkdtemp(prefix="pyisolate-home-", dir="/var/tmp"))  # mkdtemp: mode 0700
    try:
        venv.create(directory / "venv", symlinks=True)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(directory / "venv")}))
        (packages / "only_here.py").write_text("VALUE = 7\n")
        compileall.compile_dir(packages, maxlevels=0, quiet=2)
        paths = [ROOT, *(path for path in sys.path if path.endswith("site-packages"))]
        (packages / "tests.pth").write_text("".join(f"{path}\n" for path in paths))
        (directory / "secret").write_text("x")
        (directory / "granted").write_text("x")
        yield directory
    finally:
        shutil.rmtree(directory)


def run(home: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(home / "venv/bin/python"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("policy", [
    "Policy.preset('compute'), None",
    "Policy.preset('compute').with_mode('monitor'), None",
    "Policy.preset('compute').with_mode('monitor', 'fs'), None",
    "Policy.preset('compute').with_mode('monitor'), Policy.preset('none')",
], ids=["enforced", "monitored", "files monitored", "shadowed"])  # fmt: skip
def test_its_modules_are_there_and_the_rest_of_the_home_is_not(home: Path, policy: str) -> None:
    policy = policy.replace("'compute')", "'compute').allow_import('only_here')")
    uid, value, seen = run(home, "-c", SPAWN, policy, str(home / "secret"), str(home / "venv")).splitlines()
    assert (uid, value) == ("65534", "7")
    assert seen.split() == ["False", "True"]


def test_what_is_granted_below_it_is_there_in_monitor_mode(home: Path) -> None:
    policy = (
        f"Policy.preset('compute').allow_import('only_here').allow_read({str(home / 'granted')!r}).with_mode('monitor')"
    )
    *_, seen = run(home, "-c", SPAWN, f"{policy}, None", str(home / "secret"), str(home / "granted")).splitlines()
    assert seen.split() == ["False", "True"]


def test_a_policy_is_learned(home: Path) -> None:
    script, policy = home / "job.py", home / "policy.yaml"
    script.write_text("import only_here\nprint(len(open('/etc/hostname').read()) > 0)\n")
    run(home, "-m", "pyisolate.cli.main", "policy", "learn", "-o", str(policy), "--verify", str(script))
    assert "/etc/hostname" in policy.read_text()
