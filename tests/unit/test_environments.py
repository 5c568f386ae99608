"""What an environment is asked for, how it is built, and where it is kept: without a sandbox."""

from __future__ import annotations

import json
import os
import struct
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyisolate import BuildError, EnforcementError, Environment, Policy, PolicySyntaxError
from pyisolate.cli.main import cli
from pyisolate.environments import cache
from pyisolate.environments.requirements import fits_python, from_file, from_list, from_lock, header_of
from pyisolate.policy import elf, packages, site
from pyisolate.policy.compile import compile_policy
from pyisolate.policy.explain import check, explain
from pyisolate.policy.interpreter import InterpreterFiles
from tests.require import require
from tests.uv import find_uv, search_path
from tests.wheels import make_wheel

pytestmark = pytest.mark.once

HASH = "sha256:" + "0" * 64


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheels")
    make_wheel(place, "upper", {"upper/__init__.py": "import lower"}, requires=["lower>=1"])
    make_wheel(place, "lower", {"lower.py": "value = 1\n"})
    return place


@pytest.fixture(scope="module")
def built(wheels: Path) -> Environment:
    """One that is there: a build takes a second or two."""
    return Environment.from_requirements(["upper"], wheels=wheels)


def source_that_marks(directory: Path) -> tuple[Path, Path]:
    """Return an archive whose setup.py writes a file, and that file."""
    mark, tree = directory / "ran", directory / "hostile-1.0"
    tree.mkdir()
    (tree / "setup.py").write_text(f"open({str(mark)!r}, 'w')\nfrom setuptools import setup\nsetup(name='hostile')\n")
    with tarfile.open(directory / "hostile-1.0.tar.gz", "w:gz") as archive:
        archive.add(tree, "hostile-1.0")
    return directory / "hostile-1.0.tar.gz", mark


# -- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["name @ git+https://example.org/x", "name @ https://example.org/x.tar.gz", "./tree", "/srv/x.tar.gz",
     "git+https://example.org/x", "-e .", "--no-binary :all:", "-r other.txt", "not a requirement", "x\n-e ."],
)  # fmt: skip
def test_what_would_be_built_or_is_an_option_is_refused(text: str) -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        from_list([text])
    assert caught.value.hint


def test_requirements_have_one_form_whatever_their_order() -> None:
    assert from_list(["b>=1 ", "a", "a"]) == from_list(["a", "b >=1"])
    assert from_list(["name @ https://example.org/name-1-py3-none-any.whl"]).lines
    with pytest.raises(TypeError, match="list of texts"):
        from_list("requests")


def test_a_requirements_file_keeps_places_and_hashes_and_includes_others(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("idna==3\n")
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"# all\n--find-links wheels\n-r more.txt\nrich>=13 \\\n  --hash={HASH}  # why\n")
    found = from_file(wanted)
    assert found.options == (f"--find-links {tmp_path / 'wheels'}",)
    assert found.lines == ("idna==3", f"rich>=13 --hash={HASH}")
    assert not found.hashed
    wanted.write_text("-e .\n")
    with pytest.raises(PolicySyntaxError, match=r"requirements.txt:1: -e: would be built from source"):
        from_file(wanted)
    wanted.write_text("--no-binary :all:\nx\n")
    with pytest.raises(PolicySyntaxError, match="option is not taken"):
        from_file(wanted)


def test_a_lock_is_exact(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"idna==3.1 --hash={HASH}\n")
    assert from_lock(lock).locked
    assert from_lock(lock).hashed
    lock.write_text("idna>=3\n")
    with pytest.raises(PolicySyntaxError, match="no exact version"):
        from_lock(lock)


def test_a_lock_of_pep_751_is_read_with_its_markers_and_hashes(tmp_path: Path) -> None:
    lock = tmp_path / "pylock.toml"
    wheel = f'wheels = [{{name = "x-1-py3-none-any.whl", hashes = {{sha256 = "{"0" * 64}"}}}}]'
    lock.write_text(
        f'lock-version = "1.0"\n[[packages]]\nname = "x"\nversion = "1"\n{wheel}\nmarker = "python_version < \'3.9\'"\n'
    )
    assert from_lock(lock).lines == (f'x==1; python_version < "3.9" --hash={HASH}',)
    lock.write_text('lock-version = "1.0"\n[[packages]]\nname = "x"\nversion = "1"\n')
    with pytest.raises(PolicySyntaxError, match="no wheel in this lock"):
        from_lock(lock)


def test_the_header_of_a_script_is_read() -> None:
    text = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "rich",\n# ]\n# ///\nimport rich\n'
    found = header_of(text)
    assert found is not None
    assert found.dependencies == ("rich",)
    assert fits_python(found.requires_python, "3.11.2")
    assert not fits_python(found.requires_python, "3.10.9")
    assert header_of("import rich\n") is None
    assert header_of("# /// a\n" * (1 << 17)) is None  # a minute and more where each line is searched from anew
    with pytest.raises(PolicySyntaxError, match="more than one"):
        header_of(text + text)


# -- building ---------------------------------------------------------------------------------------------------------


def test_an_environment_is_built_once_and_whole(wheels: Path, built: Environment) -> None:
    lines: list[str] = []
    assert built.distributions == {"lower": "1.0", "upper": "1.0"}
    assert (built.modules, built.natives) == (("lower", "upper"), ())
    assert Environment.from_requirements(["upper"], wheels=wheels, progress=lines.append).id == built.id
    assert not lines
    assert not list(cache.cache_directory().glob(".*.new"))
    files = [Path(place) / name for place, _, names in os.walk(built.directory) for name in names]
    assert files
    assert not [path for path in files if path.stat().st_mode & 0o022 or not path.stat().st_mode & 0o004]
    assert Environment(built.directory).requirements == ("upper",)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_no_code_of_a_package_runs_also_where_another_requires_its_source(
    tmp_path: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--only-binary :all:` speaks of indexes: pip would build what a wheel names by its address."""
    if installer == "uv":
        require("uv", find_uv() is not None, "pip install uv")
        monkeypatch.setenv("PATH", search_path())
    (archive, mark), wheels = source_that_marks(tmp_path), tmp_path / "wheels"
    make_wheel(wheels, "leads", {"leads.py": ""}, requires=[f"hostile @ {archive.as_uri()}"])
    with pytest.raises(BuildError) as caught:
        Environment.from_requirements(["leads"], wheels=wheels, installer=installer)
    assert caught.value.output
    assert not mark.exists()
    make_wheel(wheels, "leads", {"leads.py": ""})  # the control: the same wheel, without the requirement
    assert Environment.from_requirements(["leads"], wheels=wheels, installer=installer).modules == ("leads",)


def test_a_failed_build_says_why_and_leaves_nothing(wheels: Path) -> None:
    with pytest.raises(BuildError, match="No matching distribution found for absent") as caught:
        Environment.from_requirements(["absent"], wheels=wheels)
    assert "wheels alone" in str(caught.value.hint)
    assert not [one for one in cache.cache_directory().glob(".*") if one.suffix != ".lock"]


def test_who_wants_what_another_builds_waits_for_it(wheels: Path) -> None:
    directory, waits = cache.open_cache(), threading.Event()
    with cache.locked(directory, "k", lambda: None):
        other = threading.Thread(target=lambda: cache.locked(directory, "k", waits.set).__enter__())
        other.start()
        assert waits.wait(10)
        assert other.is_alive()
    other.join(10)
    assert not other.is_alive()


# -- trust ------------------------------------------------------------------------------------------------------------


def test_what_another_user_could_change_is_refused(built: Environment) -> None:
    policy = built.grant(Policy.preset("compute"))
    assert compile_policy(policy).site is not None
    for place, why in (
        (built.directory, "by its group or by others"),
        (os.environ["XDG_CACHE_HOME"], "could replace it"),
        (os.path.join(built.directory, site.DESCRIPTION), "by its group or by others"),
    ):
        mode = os.stat(place).st_mode
        os.chmod(place, mode | 0o020)
        with pytest.raises(EnforcementError, match=why):
            compile_policy(policy)
        os.chmod(place, mode)
    if os.geteuid() == 0:
        os.chown(built.directory, 65534, -1)
        with pytest.raises(EnforcementError, match="belongs to user 65534"):
            Environment(built.directory)
        os.chown(built.directory, 0, -1)


def elf_file(*, loader: str = "", needed: str = "", runpath: str = "") -> bytes:
    """Return the least of a 64-bit ELF file that names a loader, or a library and where it is (elf(5))."""
    machine = Path(sys.executable).resolve().read_bytes()[18:20]
    strings = b"\0" + needed.encode() + b"\0" + runpath.encode() + b"\0"
    dynamic = struct.pack("<10Q", 5, 4096, 10, len(strings), 1, 1, 29, len(needed) + 2, 0, 0)
    interp = loader.encode() + b"\0"
    at_dynamic = 64 + 3 * 56
    at_strings, at_interp = at_dynamic + len(dynamic), at_dynamic + len(dynamic) + len(strings)
    segments = [(1, at_strings, 4096, len(strings)), (2, at_dynamic, 0, len(dynamic))]
    segments += [(3, at_interp, 0, len(interp))] if loader else []
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<H", 3) + machine
    head += struct.pack("<IQQQIHHHHHH", 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 4, at, address, 0, size, size, 0) for kind, at, address, size in segments
    )
    return head + table.ljust(3 * 56, b"\0") + dynamic + strings + interp


def test_the_files_of_a_package_grant_nothing_of_the_hosts(tmp_path: Path) -> None:
    """A native module says what it is linked to, and where that is: it could name a key, or the host's own library."""
    key, own = tmp_path / "id_rsa", tmp_path / "libown.so"
    key.write_text("secret")
    own.write_bytes(elf_file())
    suffix = InterpreterFiles.discover().native_suffixes[0]
    hostile = {
        f"a{suffix}": elf_file(loader=str(key)),
        f"b{suffix}": elf_file(needed=str(key)),
        f"c{suffix}": elf_file(needed=own.name, runpath=str(tmp_path)),
        f"d{suffix}": elf_file(needed="libc.so.6"),
    }
    wheel = make_wheel(tmp_path / "wheels", "hostile", hostile)
    made = Environment.from_requirements([str(wheel)], wheels=tmp_path / "wheels")
    assert made.natives == ("a", "b", "c", "d")
    granted = [rule.path for rule in compile_policy(made.grant(Policy.preset("none"))).fs if rule.allow]
    assert not [path for path in granted if path.startswith(str(tmp_path))]
    assert [path for path in granted if path.endswith("/libc.so.6")]  # the control: what the system's loader finds
    assert elf.closure([f"{made.directory}/site-packages/c{suffix}"]) == (str(own),)  # it says so, and is not believed


# -- policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_names_it_and_may_import_what_is_in_it(built: Environment) -> None:
    policy = built.grant(Policy.preset("compute"))
    assert Policy.from_dict(policy.to_dict()) == policy
    assert explain(policy, "import.module", "lower").code is None
    assert explain(policy, "import.module", "click").code is not None
    assert explain(policy, "fs.write", f"{built.directory}/x").rule == site.rule_text(built.directory)
    assert explain(built.grant(policy.deny_import("lower")), "import.module", "lower").code == "EXPLICIT_DENY"
    assert not check(policy)
    assert check(policy.allow_import("click"))[0].rule == "import: {allow: [click]}"  # the host has it, this has not


@pytest.mark.parametrize("where", ["", "/site-packages/lower.py", "/.."])
def test_a_policy_that_lets_a_guest_change_it_is_refused(built: Environment, where: str) -> None:
    place = os.path.normpath(built.directory + where)
    with pytest.raises(EnforcementError, match="which no guest may change"):
        compile_policy(built.grant(Policy.preset("compute").allow_write(place)))
    compile_policy(built.grant(Policy.preset("compute").allow_read(place)))


def test_an_environment_of_another_version_is_refused(built: Environment) -> None:
    path = Path(built.directory, site.DESCRIPTION)
    own = path.read_text()
    path.write_text(json.dumps({**json.loads(own), "tag": "cpython-39"}))
    try:
        with pytest.raises(EnforcementError, match="is for cpython-39"):
            compile_policy(Policy.preset("compute").with_environment(built.directory))
    finally:
        path.write_text(own)


def test_markers_are_judged_and_extras_count_where_they_are_asked_for(tmp_path: Path) -> None:
    needs = ["now; python_version >= '3.11'", "past; python_version < '3'", "more[extra]", "never; extra == 'x'"]
    for name, requires in {"top": needs, "more": ["added; extra == 'extra'"], "now": [], "past": [], "added": [],
                           "never": []}.items():  # fmt: skip
        path = tmp_path / f"{name}-1.dist-info"
        path.mkdir()
        stated = "".join(f"Requires-Dist: {one}\n" for one in requires)
        (path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{stated}")
        (path / "top_level.txt").write_text(name)
        (tmp_path / f"{name}.py").write_text("")
    interpreter = InterpreterFiles.discover()
    found = packages.locate("top", _with_site(interpreter, tmp_path))
    assert found is not None
    assert found.requires == ("added", "more", "now")


def _with_site(interpreter: InterpreterFiles, directory: Path) -> InterpreterFiles:
    import msgspec

    return msgspec.structs.replace(interpreter, site_dirs=(str(directory),))


# -- commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_build_list_and_remove(wheels: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, ["environment", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    directory = run("build", "--wheels", str(wheels), "lower").strip()
    assert os.path.isdir(directory)
    (listed,) = [one for one in json.loads(run("list", "--json")) if one["directory"] == directory]
    assert listed["requirements"] == ["lower"]
    assert "1 packages  lower" in run("list")
    run("remove", listed["id"][:8])
    assert listed["id"] not in run("list")
    assert not os.path.exists(directory)
    assert CliRunner().invoke(cli, ["environment", "remove", "abc"]).exit_code == 125
