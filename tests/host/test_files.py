"""`sandbox.files`: what the host puts into a workspace and takes out, while the guest does its worst."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.sandbox.files import FileEntry
from tests import inside
from tests.require import require, require_tmp_leads

pytestmark = pytest.mark.usefixtures("kept_supervisor")


POLICY = pyisolate.Policy.preset("compute").with_workspace("4MiB")


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor) -> Iterator[pyisolate.Sandbox]:
    with supervisor.spawn("files", POLICY) as made:
        require("root_view", inside.session(made).workspace is not None, str(made.enforcement.notes))
        yield made


def test_there_and_back(sandbox: pyisolate.Sandbox) -> None:
    require_tmp_leads(POLICY)
    files = sandbox.files
    files.write("in/a.txt", "grün")
    files.write("/tmp/b.bin", b"\0\1")
    assert sandbox.eval("open('in/a.txt').read()") == "grün"
    sandbox.exec("open('in/a.txt', 'a').write('!'); open('/tmp/b.bin', 'ab').write(b'2')")
    assert files.read_text("/sandbox/workspace/in/a.txt") == "grün!"
    assert files.read("b.bin") == b"\0\x012"
    found = files.list(recursive=True)
    assert [(entry.path, entry.kind, entry.size) for entry in found] == [
        ("b.bin", "file", 3),
        ("in", "directory", 0),
        ("in/a.txt", "file", 6),
    ]
    assert isinstance(found[0], FileEntry)
    assert [entry.path for entry in files.list("in")] == ["in/a.txt"]
    files.write("b.bin", b"new")
    assert sandbox.eval("open('b.bin').read()") == "new"
    sandbox.exec("import os; os.unlink('b.bin'); os.chmod('in/a.txt', 0o600)")
    files.remove("in")
    assert files.list() == []
    for missing in ("b.bin", "in", "in/a.txt"):
        with pytest.raises(FileNotFoundError):
            files.read(missing)


def test_trees_come_and_go(sandbox: pyisolate.Sandbox, tmp_path: Path) -> None:
    (tmp_path / "project/data").mkdir(parents=True)
    (tmp_path / "project/run.py").write_text("print('x')")
    (tmp_path / "project/data/table.csv").write_text("1,2\n")
    sandbox.files.put(tmp_path / "project")
    sandbox.files.put(tmp_path / "project/run.py", "again.py")
    assert sandbox.eval("open('project/data/table.csv').read()") == "1,2\n"
    sandbox.exec(
        "import os\nos.makedirs('out/deep')\nopen('out/deep/r.txt', 'w').write('r')\nos.symlink('/etc/passwd', 'out/l')"
    )
    fetched = sandbox.files.get("out", tmp_path / "got")
    assert fetched.files == (str(tmp_path / "got/deep/r.txt"),)
    assert fetched.left_out == ("out/l",)
    assert sorted(path.name for path in (tmp_path / "got").rglob("*")) == ["deep", "r.txt"]
    assert sandbox.files.get("out/deep/r.txt", tmp_path / "r").files == (str(tmp_path / "r"),)
    assert (tmp_path / "r").read_text() == "r"


def test_spawn_puts_files_first(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n")
    given = {"in.csv": tmp_path / "in.csv", "text": "t", "d/raw": b"r"}
    with supervisor.spawn("given", POLICY, files=given) as sandbox:
        assert sandbox.eval("open('in.csv').read() + open('text').read() + open('d/raw').read()") == "a,b\ntr"
    with pytest.raises(FileNotFoundError):
        supervisor.spawn("missing", POLICY, files={"x": tmp_path / "nothing"})
    for name in ("../x", "/etc/x", "", "a\nb"):
        with pytest.raises(ValueError, match="path"):
            supervisor.spawn("wrong", POLICY, files={name: "x"})
    with pytest.raises(TypeError):
        supervisor.spawn("wrong", POLICY, files={"x": 7})  # type: ignore[dict-item]
    with pytest.raises(pyisolate.EnforcementError):
        supervisor.spawn("none", POLICY.with_workspace(None), files={"x": "y"})
    assert supervisor.sandboxes == []


HOSTILE = """
import os
os.symlink('/etc/passwd', 'link')
os.symlink('/etc', 'folder')
os.symlink('/proc/self/root/etc/passwd', 'magic')
os.mkfifo('pipe')
os.mkdir('d'); os.symlink('../../../../etc', 'd/up')
os.symlink('loop', 'loop')
"""


@pytest.mark.parametrize(
    "name",
    ["link", "folder/passwd", "magic", "pipe", "d/up/passwd", "loop", "../../etc/passwd", "d/../../x", "/etc/passwd"],
)
def test_no_name_of_the_guests_leads_out(sandbox: pyisolate.Sandbox, name: str, tmp_path: Path) -> None:
    sandbox.exec(HOSTILE)
    before = Path("/etc/passwd").read_bytes()
    with pytest.raises((OSError, ValueError)):
        sandbox.files.read(name)
    with pytest.raises((OSError, ValueError)):
        sandbox.files.get(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    try:
        sandbox.files.write(name, b"harm")  # a link, or a FIFO, gives way to a file
    except (OSError, ValueError):
        pass
    else:
        assert sandbox.files.read(name) == b"harm"
    try:
        sandbox.files.remove(name)
    except (OSError, ValueError):
        pass
    assert Path("/etc/passwd").read_bytes() == before
    assert {entry.kind for entry in sandbox.files.list() if entry.path in ("link", "pipe")} <= {"other", "file"}


def test_hostile_names_and_sizes_are_left_out(sandbox: pyisolate.Sandbox, tmp_path: Path) -> None:
    sandbox.exec(
        "import os\nfor name in (b'a\\nb', b'\\xff', b'\\x1b[2J', b'-rf', b'fine'):\n"
        "  os.close(os.open(name, os.O_CREAT | os.O_WRONLY))\n"
        "f = open('holes', 'wb'); f.truncate(50 << 20); f.close()"
    )
    assert [entry.path for entry in sandbox.files.list()] == ["-rf", "fine", "holes"]
    with pytest.raises(pyisolate.SandboxError, match="more than"):
        sandbox.files.read("holes", max_bytes=1 << 20)
    with pytest.raises(pyisolate.SandboxError, match="more than"):
        sandbox.files.get("holes", tmp_path / "holes")
    assert list(tmp_path.iterdir()) == []
    sandbox.files.remove("holes")
    fetched = sandbox.files.get(".", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["-rf", "fine"]
    assert fetched.left_out == ("\\udcff", "\\x1b[2J", "a\\nb")


def test_a_deep_tree_is_no_trouble(sandbox: pyisolate.Sandbox) -> None:
    sandbox.exec("import os\nfor _ in range(300):\n  os.mkdir('d'); os.chdir('d')\nos.chdir('/tmp')")
    with pytest.raises(pyisolate.SandboxError, match="levels"):
        sandbox.files.list(recursive=True)
    with pytest.raises(pyisolate.SandboxError, match="levels"):
        sandbox.files.remove("d")


def test_modes_do_not_carry_over(sandbox: pyisolate.Sandbox, tmp_path: Path) -> None:
    sandbox.exec("import os\nopen('s', 'w').write('x'); os.chmod('s', 0o777)")
    sandbox.files.get("s", tmp_path / "s")
    found = os.stat(tmp_path / "s")
    assert stat.S_IMODE(found.st_mode) & 0o7111 == 0
    assert found.st_uid == os.geteuid()
    (tmp_path / "l").symlink_to(tmp_path / "elsewhere")
    sandbox.files.get("s", tmp_path / "l")
    assert not (tmp_path / "l").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_the_quota_holds_for_the_host(sandbox: pyisolate.Sandbox) -> None:
    with pytest.raises(OSError, match="No space"):
        sandbox.files.write("big", b"x" * (5 << 20))
    assert sandbox.files.list() == []
    sandbox.files.write("fits", b"x" * (2 << 20))
    assert sandbox.eval("len(open('fits').read())") == 2 << 20


def test_what_a_limit_ended_left_is_there_until_close(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("ended", POLICY) as sandbox:
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec("open('partial', 'w').write('kept')\nimport os\nos._exit(3)")
        assert sandbox.files.read("partial") == b"kept"
    with pytest.raises(pyisolate.SandboxClosed):
        sandbox.files.read("partial")


def test_without_a_workspace_it_says_so(supervisor: pyisolate.Supervisor) -> None:
    with (
        supervisor.spawn("without", POLICY.with_workspace(None)) as sandbox,
        pytest.raises(pyisolate.SandboxError, match="no workspace"),
    ):
        sandbox.files.list()


def test_users_of_a_range_get_theirs() -> None:
    require("root", os.geteuid() == 0, "this run is not root")
    with (
        pyisolate.Supervisor(pool_size=1, cell_uids=range(60000, 60004)) as supervisor,
        supervisor.spawn("range", POLICY, files={"d/a": "x"}) as sandbox,
    ):
        sandbox.exec("import os\nopen('d/a', 'a').write('y'); os.rename('d/a', 'd/b'); open('d/c', 'w').write('z')")
        assert sandbox.files.read("d/b") == b"xy"
        assert sandbox.files.read("d/c") == b"z"


def test_a_module_beside_the_program_is_found(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").allow_import("helper")
    with supervisor.spawn("two-files", policy, files={"helper.py": "answer = 42"}) as sandbox:
        assert sandbox.exec("import helper\nhelper.answer").value == 42
        assert sandbox.run_script("import helper; print(helper.answer)", filename="main.py").stdout == "42\n"
        assert sandbox.exec("import platform\nplatform.node()").value == "sandbox"
