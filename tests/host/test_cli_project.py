"""`pyisolate run` of more than one file: modules beside a script, -m, -c, and `python -m pyisolate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pyisolate

COMMAND = [sys.executable, "-m", "pyisolate", "run"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project that every user may read, below directories that let them through."""
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    project = tmp_path / "project"
    (project / "package").mkdir(parents=True)
    (project / "helper.py").write_text("from package.inner import VALUE\nTWICE = 2 * VALUE\n")
    (project / "package" / "__init__.py").write_text("")
    (project / "package" / "inner.py").write_text("VALUE = 21\n")
    (project / "package" / "__main__.py").write_text(
        "import sys, helper\nprint(helper.TWICE, sys.argv[1:], __name__)\n"
    )
    (project / "main.py").write_text("import helper, sys\nprint(helper.TWICE, sys.argv[1:], sys.path[0])\n")
    (project / "secret.txt").write_text("s3cret")
    return project


def run(*words: str, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, cwd=cwd, **more)


def test_a_script_finds_the_modules_beside_it(tree: Path) -> None:
    done = run("main.py", "-x", "y", cwd=tree)
    assert (done.returncode, done.stdout) == (0, f"42 ['-x', 'y'] {tree}\n"), done.stderr
    assert done.stderr == ""
    assert run(str(tree / "main.py")).returncode == 0


def test_without_the_grant_they_are_refused(tree: Path) -> None:
    for options in (["--no-project"], ["--policy", str(tree / "policy.yaml")]):
        (tree / "policy.yaml").write_text("version: 1\nname: p\nextends: compute\n")
        done = run(*options, "main.py", cwd=tree)
        assert done.returncode == 120, done.stderr
        assert "import.module helper" in done.stderr
    rules = f"fs: [{{path: {tree}, allow: [read]}}]\nimport: {{allow: [helper, package]}}\n"
    (tree / "policy.yaml").write_text("version: 1\nname: p\nextends: compute\n" + rules)
    assert run("--policy", "policy.yaml", "main.py", cwd=tree).returncode == 0


def test_a_lone_script_is_granted_its_own_file_alone() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # the guest's /tmp is its own
        alone = Path(place)
        alone.chmod(0o755)
        (alone / "data.txt").write_text("s3cret")
        (alone / "read it.py").write_text(
            f"print(open(__file__).read(5), flush=True)\nprint(open({str(alone / 'data.txt')!r}).read())"
        )
        done = run(str(alone / "read it.py"))
    assert (done.returncode, done.stdout[:6]) == (120, "print\n")
    assert "1 operation refused" in done.stderr
    assert "s3cret" not in done.stdout


def test_a_script_that_is_named_by_the_directory_above_may_read_its_own_file() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        top = Path(place)
        top.chmod(0o777)  # no project
        (top / "below").mkdir()
        (top / "x.py").write_text("print(__file__, open(__file__).read(5))")
        done = run("../x.py", cwd=top / "below")
    assert (done.returncode, done.stdout) == (0, f"{top}/x.py print\n"), done.stderr


@pytest.mark.parametrize("place", ["home", "above home", "writable"])
def test_a_home_and_a_shared_place_are_no_projects(tree: Path, place: str) -> None:
    home = {"home": tree, "above home": tree / "package"}.get(place, tree.parent / "elsewhere")
    tree.chmod(0o777 if place == "writable" else 0o755)
    done = run("main.py", cwd=tree, env={**os.environ, "HOME": str(home)})
    assert done.returncode == 120, done.stdout
    assert "import.module helper" in done.stderr
    assert f"the modules in {tree} are not granted: it is a home, or all may write there" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="guests are the same user")
def test_a_place_that_guests_cannot_read_starts_all_the_same(tree: Path) -> None:
    tree.chmod(0o700)
    (tree / "main.py").write_text("print('here')")
    assert run("main.py", cwd=tree).stdout == "here\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="guests are the same user")
def test_modules_that_guests_cannot_read_are_told_of(tree: Path) -> None:
    tree.chmod(0o700)
    done = run("main.py", cwd=tree)
    assert done.returncode == 120
    assert f"the modules in {tree} are not granted: guests are another user" in done.stderr


def test_a_module_runs_as_a_script(tree: Path) -> None:
    done = run("-m", "package", "-x", "--json", cwd=tree)
    assert (done.returncode, done.stdout) == (0, "42 ['-x', '--json'] __main__\n"), done.stderr
    assert run("-m", "json.tool", cwd=tree, input="[1]").stdout == "[\n    1\n]\n"
    absent = run("-m", "nosuch", cwd=tree)
    assert (absent.returncode, "import.module nosuch" in absent.stderr, "File " in absent.stderr) == (120, True, False)


def test_a_text_that_lacks_a_module_of_the_working_directory_is_told_why(tree: Path) -> None:
    for words, stdin in (("-c", "import helper"), None), (("-",), "import helper"):
        done = run(*words, cwd=tree, input=stdin)
        assert (done.returncode, done.stderr.count("helper is in the working directory")) == (120, 1), done.stderr
    assert (
        "helper is in the working directory" in run("--allow-import", "helper", "-c", "import helper", cwd=tree).stderr
    )
    assert "working directory" not in run("-c", "import nosuch", cwd=tree).stderr


def test_a_module_of_the_users_own_packages_is_named_with_its_place(tree: Path) -> None:
    place = tree / "elsewhere"
    (place / "wanted").mkdir(parents=True)
    (place / "wanted/__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(place)}
    refused = run("-c", "import wanted", env=environment).stderr
    missing = run("--allow-import", "wanted", "-c", "import wanted.more", env=environment).stderr
    for told in (refused, missing):
        assert told.count(f"wanted is in {place}, a directory of PYTHONPATH, where guests find nothing") == 1, told
    absent = run("-c", "import wanted_not", env=environment).stderr
    assert "is not installed" in absent
    assert str(place) not in absent


def test_a_text_runs_as_the_interpreter_runs_it(tree: Path) -> None:
    done = run("--limit", "wall=20s", "-c", "import sys; print(sys.argv, __name__, input())", "-a", "b", input="in\n")
    assert done.stdout == "['-c', '-a', 'b'] __main__ in\n", done.stderr
    failed = run("-c", "1 / 0")
    assert (failed.returncode, 'File "<string>", line 1' in failed.stderr) == (1, True)
    assert json.loads(run("--json", "-c", "print(1)").stdout)["script"] == "-c"
    for words in ([], ["-m"], ["--json", "-c"]):
        assert run(*words).returncode == 2


def test_a_directory_with_a_main_and_stdin_have_their_names(tree: Path) -> None:
    (tree / "app").mkdir()
    (tree / "app" / "__main__.py").write_text("import sys, part\nprint(sys.argv, part.X)")
    (tree / "app" / "part.py").write_text("X = 5")
    (tree / "app").chmod(0o755)
    assert run("app", "-x", cwd=tree).stdout == "['app', '-x'] 5\n"
    assert run("-", "y", cwd=tree, input="import sys; print(sys.argv)").stdout == "['-', 'y']\n"


@pytest.mark.once
def test_an_editable_install_is_granted_by_its_name(tree: Path, tmp_path: Path) -> None:
    """A `.pth` file of a src layout, and a finder as setuptools writes it: no event tells of the places searched."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    sites = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    paths = [str(Path(pyisolate.__file__).parents[1]), *(one for one in sys.path if one.endswith("-packages"))]
    (sites / "zz_host.pth").write_text("\n".join(paths))
    source = tree / "src" / "laid"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "__main__.py").write_text("import sys, laid\nprint(laid.__name__, sys.argv[1:])\n")
    (sites / "_laid.pth").write_text(f"{tree / 'src'}\n")
    (sites / "__editable___flat_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'package': {str(tree / 'package')!r}}}\n"
        "import importlib.util as u, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name in MAPPING: return u.spec_from_file_location(name, MAPPING[name] + '/__init__.py')\n"
        "sys.meta_path.append(Finder)\n"
    )
    (sites / "__editable__.flat.pth").write_text("import __editable___flat_finder\n")
    command = [str(environment / "bin" / "python"), "-m", "pyisolate", "run"]
    done = subprocess.run([*command, "-m", "laid", "x"], capture_output=True, text=True, timeout=60, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "laid ['x']\n", "")
    (tree / "policy.yaml").write_text("version: 1\nname: p\nextends: compute\nimport: {allow: [package]}\n")
    code = "import package.inner\nprint(package.inner.VALUE)\ntry: import laid\nexcept ImportError: print('refused')\n"
    code += f"try: open({str(tree / 'secret.txt')!r})\nexcept OSError: print('refused')"
    words = ["--policy", str(tree / "policy.yaml"), "--json", "-c", code]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, cwd="/")
    told = json.loads(done.stdout)
    assert told["stdout"] == "21\nrefused\nrefused\n", done.stderr
    assert [one["capability"] for one in told["denials"]] == ["import.module", "fs.read"]


def test_a_package_without_init_is_found_beside_a_script(tree: Path) -> None:
    (tree / "package" / "__init__.py").unlink()
    assert run("main.py", cwd=tree).stdout == f"42 [] {tree}\n"


def test_a_zip_application_runs_and_imports_from_itself(tree: Path) -> None:
    main = f"import part, sys\nprint(sys.argv, __name__, part.X)\nopen({str(tree / 'secret.txt')!r})"
    with zipfile.ZipFile(tree / "app.pyz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", main)
        archive.writestr("part/__init__.py", "X = 5")
    done = run("app.pyz", "-x", cwd=tree)
    assert done.stdout == "['app.pyz', '-x'] __main__ 5\n"
    assert "fs.read" in done.stderr, "nothing beside the archive is granted"
    refused = run("--no-project", "app.pyz", cwd=tree)
    assert (refused.returncode, refused.stdout) == (120, "")
    assert "import.module part" in refused.stderr
    with zipfile.ZipFile(tree / "none.pyz", "w") as archive:
        archive.writestr("part.py", "")
    assert "without a __main__.py" in run("none.pyz", cwd=tree).stderr


def test_a_file_that_is_not_in_the_guests_directory_is_said(tree: Path) -> None:
    reads = "import sys; print(len(open(sys.argv[1]).read()))"
    (tree / "reads.py").write_text(reads)
    (tree / "data").mkdir()
    (tree / "data" / "in put.csv").write_text("a,b")
    for words in (["reads.py"], ["-c", reads]):
        absent = run(*words, "data/in put.csv", cwd=tree)
        assert absent.returncode == 1
        said = absent.stderr.splitlines()[-1]
        assert "without 'data/in put.csv': --file 'data/in put.csv=data/in put.csv' copies" in said, absent.stderr
    told = run("--file", "data/in put.csv=data/in put.csv", "reads.py", "data/in put.csv", cwd=tree)
    assert (told.returncode, told.stdout, told.stderr) == (0, "3\n", "")  # as it was told
    assert "started in a directory of its own" not in run("reads.py", "nowhere.csv", cwd=tree).stderr
    (tree / "\x1b[2J").write_text("")
    assert "without '\\x1b[2J'" in run("reads.py", "\x1b[2J", "-c", cwd=tree).stderr
    fails = run("-c", "import sys; sys.exit(3)", "x" * 300, str(tree / "secret.txt"), cwd=tree)
    assert (fails.returncode, fails.stderr) == (3, "")
    quiet = run("-q", "reads.py", "secret.txt", cwd=tree)
    assert quiet.returncode == 1
    assert "--file" not in quiet.stderr


def test_a_file_that_a_program_does_not_find_is_said(tree: Path) -> None:
    command = [sys.executable, "-m", "pyisolate", "exec"]
    absent = subprocess.run([*command, "cat", "secret.txt"], capture_output=True, text=True, timeout=60, cwd=tree)
    assert absent.returncode == 1
    assert "without 'secret.txt': --file secret.txt copies it there" in absent.stderr.splitlines()[-1]
    command += ["--file", "secret.txt"]
    told = subprocess.run([*command, "cat", "secret.txt"], capture_output=True, text=True, timeout=60, cwd=tree)
    assert (told.returncode, told.stdout, told.stderr) == (0, "s3cret", "")
