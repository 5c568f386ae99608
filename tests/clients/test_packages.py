"""What users install: the source distribution is whole, the wheel works on a machine without compiler and headers, and
a build that had to leave something out says so.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
NO_REGISTRY = re.compile(r"No matching distribution|Could not (fetch|find)|Connection")


@functools.cache
def make_wheel() -> subprocess.CompletedProcess[str]:
    """Run `make wheel` as users do: it builds the packages, checks them and runs the wheel."""
    command = ["make", "wheel", f"VENV={os.path.relpath(sys.prefix, ROOT)}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(autouse=True)
def built() -> None:
    require("clang", shutil.which("clang") is not None, "apt-get install clang libbpf-dev")
    done = make_wheel()
    if done.returncode and NO_REGISTRY.search(done.stderr):
        require("registry", False, "pip cannot reach a package registry")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture
def environment() -> Iterator[Path]:
    """An empty virtual environment that every user can read."""
    directory = Path(tempfile.mkdtemp(prefix="pyisolate-packages-"))
    directory.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    yield directory / "venv"
    shutil.rmtree(directory)


def install(environment: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install", "-q", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def run(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]], cwd="/", env={"PATH": str(environment / "bin")},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def the_wheel() -> Path:
    tag = "cp{}{}".format(*sys.version_info)
    (wheel,) = DIST.glob(f"pyisolate_kernel-{pyisolate.__version__}-{tag}-*.whl")
    return wheel


def the_sources() -> Path:
    return DIST / f"pyisolate_kernel-{pyisolate.__version__}.tar.gz"


@pytest.mark.timeout(300)
def test_the_source_distribution_is_the_whole_tree() -> None:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    require("git", bool(tracked), "this is no work tree of git")
    with tarfile.open(the_sources()) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if (ROOT / name).is_file()} - held == set()
    assert [name for name in held if name.endswith((".o", ".so", "_native.c", "_libbpf.c"))] == []


def test_the_wheel_is_whole_and_for_more_than_this_machine() -> None:
    assert re.fullmatch(
        rf"pyisolate_kernel-{re.escape(pyisolate.__version__)}-cp3\d+-cp3\d+-manylinux_2_\d+_\w+\.whl", the_wheel().name
    )
    names = zipfile.ZipFile(the_wheel()).namelist()
    programs = {path.name.removesuffix(".c") for path in (ROOT / "bpf").glob("*.bpf.c")}
    assert programs == {Path(name).name.removesuffix(".o") for name in names if name.endswith(".bpf.o")}
    for library in ("libbpf", "libelf", "libseccomp"):
        assert [name for name in names if name.startswith(f"pyisolate_kernel.libs/{library}-")], library
    assert [name for name in names if name.endswith((".c", ".h"))] == []


def test_the_bill_of_materials_lists_packages_and_bundled_libraries() -> None:
    text = the_wheel().with_suffix(".cdx.json").read_text()
    document = json.loads(text)
    components = {part["name"]: part for part in document["components"]}
    assert {"msgspec", "PyYAML", "libbpf1", "libelf1", "libseccomp2"} <= set(components)
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["version"] == pyisolate.__version__
    assert all(components[name]["licenses"] for name in ("libbpf1", "libelf1", "libseccomp2"))
    assert str(ROOT) not in text
    assert "pip" not in components


@pytest.fixture
def path_without_clang(tmp_path: Path) -> str:
    """A directory with every command of this machine but clang and llvm's."""
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if not program.name.startswith(("clang", "llvm")):
                (tmp_path / program.name).unlink(missing_ok=True)
                (tmp_path / program.name).symlink_to(program)
    return str(tmp_path)


def build_from_sources(path: str, target: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(target)]
    return subprocess.run(
        [*command, str(the_sources())], env={**os.environ, "PATH": path, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_build_without_clang_works_and_doctor_says_what_it_lacks(
    environment: Path, path_without_clang: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("wheels")
    done = build_from_sources(path_without_clang, target)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = target.glob("*.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".bpf.o")] == []
    install(environment, str(wheel))
    done = run(environment, "pyisolate", "doctor", "--json")
    assert done.returncode == 0, done.stdout  # strict sandboxes work all the same
    lacking = [one for one in json.loads(done.stdout)["findings"] if "no clang at build time" in one["text"]]
    assert {"bpf-lsm", "cgroup-bpf"} <= {one["name"] for one in lacking}
    assert all("pip install --force-reinstall --no-binary pyisolate-kernel" in one["remedy"] for one in lacking)


def test_a_build_that_requires_the_bpf_parts_fails_without_clang(path_without_clang: str, tmp_path: Path) -> None:
    done = build_from_sources(path_without_clang, tmp_path, PYISOLATE_BPF="required")
    assert done.returncode != 0
    assert "clang not found: built without BPF objects, and PYISOLATE_BPF=required" in done.stdout + done.stderr


def test_the_other_pyisolate_of_the_registry_is_an_error_in_either_order(environment: Path) -> None:
    install(environment, str(the_wheel()))
    assert run(environment, "pyisolate", "--version").returncode == 0
    install(environment, "packaging")
    install(environment, "--no-deps", "pyisolate")
    done = run(environment, "pyisolate", "--version")
    assert done.returncode == 1
    assert "its __init__ is not that of pyisolate-kernel" in done.stderr
    install(environment, "--no-deps", "--force-reinstall", str(the_wheel()))
    done = run(environment, "python", "-c", "import pyisolate")
    assert re.search(r"ImportError: import pyisolate: the distribution pyisolate [\d.]+ is installed in", done.stderr)
