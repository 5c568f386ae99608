"""A workspace that begins as a copy of a host's directory: what was changed, and all of it or nothing back."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pyisolate
from pyisolate.errors import SandboxError
from pyisolate.sandbox import commit, commit_record
from pyisolate.sandbox.copy_on_write import CopyOnWrite
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

BASE = pyisolate.Policy.preset("compute").with_workspace("1MiB")
CHANGE = (
    "import os, shutil\nopen('a.txt', 'a').write(' more')\n"
    "os.makedirs('new/deep')\nopen('new/deep/file', 'w').write('n')\n"
    "os.unlink('gone.txt')\nshutil.rmtree('old')\nos.utime('same.txt')\nos.rename('moved', 'moved.txt')\n"
    "os.unlink('turns')\nos.mkdir('turns')\nopen('turns/in', 'w').write('t')\n"
)
CHANGED = [
    ("A", "moved.txt"), ("A", "new"), ("A", "new/deep"), ("A", "new/deep/file"), ("A", "turns"), ("A", "turns/in"),
    ("D", "gone.txt"), ("D", "moved"), ("D", "old"), ("D", "old/x"), ("D", "turns"), ("M", "a.txt"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def plain(tmp_path: Path) -> Callable[[], Path]:
    """Return what makes the same tree, each time another."""
    numbers = itertools.count()
    return lambda: _make(tmp_path / f"project{next(numbers)}")


@pytest.fixture
def tree(plain: Callable[[], Path]) -> Path:
    return plain()


def _make(root: Path) -> Path:
    (root / "old").mkdir(parents=True)
    for name in ("a.txt", "gone.txt", "same.txt", "moved", "old/x", "turns"):
        (root / name).write_text(name[name.find("/") + 1])
    (root / "a.txt").chmod(0o640)
    (root / "link").symlink_to("same.txt")
    return root


@pytest.fixture
def supervisor(supervisor: pyisolate.Supervisor) -> pyisolate.Supervisor:
    with supervisor.spawn("probe", BASE) as sandbox:
        made = any(note.startswith("workspace") for note in sandbox.enforcement.notes)
        require("root_view", made, "; ".join(sandbox.enforcement.notes))
    return supervisor


def contents(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "/"
    return found


def test_changes_are_told_and_the_host_keeps_its_own_until_a_commit(
    supervisor: pyisolate.Supervisor, tree: Path
) -> None:
    before = contents(tree)
    with supervisor.spawn("edit", BASE, copy_on_write=tree) as sandbox:
        assert sandbox.files.diff() == []
        assert sandbox.eval("open('link').read()") == "s"
        sandbox.exec(CHANGE)
        changes = sandbox.files.diff()
        assert sorted((change.change, change.path) for change in changes) == CHANGED
        assert next((c.size, c.size_before) for c in changes if c.path == "a.txt") == (6, 1)
        assert contents(tree) == before
        assert sandbox.files.commit() == changes
        assert contents(tree) == {
            "a.txt": "a more", "link": "same.txt", "moved.txt": "m", "new": "/", "new/deep": "/", "new/deep/file": "n",
            "same.txt": "s", "turns": "/", "turns/in": "t",
        }  # fmt: skip
        assert (tree / "a.txt").stat().st_mode & 0o777 == 0o640
        assert sandbox.files.diff() == []
        sandbox.exec("open('a.txt', 'w').write('2')")
        assert [change.path for change in sandbox.files.commit()] == ["a.txt"]
        assert (tree / "a.txt").read_text() == "2"
    assert contents(tree)["a.txt"] == "2"


def test_what_programs_keep_for_themselves_is_beside_the_copy(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    before = contents(tree)
    with supervisor.spawn("beside", BASE, copy_on_write=tree) as sandbox:
        places = sandbox.exec(
            "import os, tempfile\nkept = tempfile.NamedTemporaryFile(delete=False)\nkept.write(b'x'); kept.flush()\n"
            "open('/tmp/t', 'w').write('t')\nos.makedirs(os.environ['MPLCONFIGDIR'])\n"
            "open(os.path.expanduser('~/.history'), 'w').write('h')\n"
            "[os.getcwd(), os.environ['HOME'], kept.name.rpartition('/')[0], os.path.exists('/tmp/a.txt')]"
        ).value
        assert places == ["/sandbox/workspace/project", "/sandbox/workspace", "/sandbox/workspace", False]
        assert sandbox.files.diff() == []
        assert sandbox.files.read("/tmp/t") == b"t", "the memory around it is the sandbox's own, too"
        assert "a.txt" in {entry.path for entry in sandbox.files.list()}
        sandbox.exec("open('made', 'w').write('m')\nos.rename('/tmp/t', 'moved here')")  # one file system
        assert [change.path for change in sandbox.files.diff()] == ["made", "moved here"]
        sandbox.files.discard()
        assert sandbox.eval("sorted(os.listdir('/tmp'))").count(".history") == 1, "only the copy begins anew"
        assert sandbox.files.commit() == []
    assert contents(tree) == before


def test_a_guest_that_takes_its_copy_away_has_deleted_what_was_in_it(
    supervisor: pyisolate.Supervisor, tree: Path
) -> None:
    with supervisor.spawn("away", BASE, copy_on_write=tree) as sandbox:
        sandbox.exec(
            "import os\nos.rename('/sandbox/workspace/project', '/tmp/elsewhere')\nos.symlink('/etc', '/tmp/project')"
        )
        assert sandbox.files.diff() == [], "the copy is the directory, whatever its name is now"
        sandbox.exec("import shutil\nos.chdir('/')\nshutil.rmtree('/tmp/elsewhere')")
        assert {change.change for change in sandbox.files.diff()} == {"D"}
        with pytest.raises(pyisolate.SandboxError, match="took the directory of its copy away"):
            sandbox.files.discard()


def test_what_a_guest_writes_into_memory_it_has_mapped_is_a_change(
    supervisor: pyisolate.Supervisor, tree: Path
) -> None:
    with supervisor.spawn("edit", BASE, copy_on_write=tree) as sandbox:
        sandbox.exec(
            "import mmap\nfile = open('a.txt', 'r+b')\nmemory = mmap.mmap(file.fileno(), 0)\nmemory[0] = memory[0]"
        )
        assert sandbox.files.diff() == []  # its page can be written from now on, and no call says so
        sandbox.exec("memory[0:1] = b'M'")
        assert [change.path for change in sandbox.files.diff()] == ["a.txt"]
        sandbox.files.commit()
        sandbox.exec("memory[0:1] = b'N'")
        assert [change.path for change in sandbox.files.commit()] == ["a.txt"]
    assert (tree / "a.txt").read_text() == "N"


def test_discard_begins_anew_with_the_directory_of_now(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    with supervisor.spawn("edit", BASE, copy_on_write=str(tree)) as sandbox:
        sandbox.exec(CHANGE)
        (tree / "fresh").write_text("by the host")
        sandbox.files.discard()
        assert sandbox.files.diff() == []
        assert sandbox.eval("open('fresh').read()") == "by the host"
        assert sandbox.eval("__import__('os').path.exists('new')") is False


def test_what_is_neither_file_nor_directory_is_refused_and_nothing_is_written(
    supervisor: pyisolate.Supervisor, tree: Path
) -> None:
    before = contents(tree)
    for guest in (
        "os.symlink('/etc/passwd', 'out')",
        "os.unlink('link'); os.symlink('/etc', 'link')",
        "os.mkfifo('fifo')",
        "open('a\\nb', 'w')",
        "os.mkdir('.pyisolate-commit-1'); open('.pyisolate-commit-1/journal', 'w').write('x')",
        "open('.pyisolate-commit-', 'w')",
    ):
        with supervisor.spawn("hostile", BASE, copy_on_write=tree) as sandbox:
            sandbox.exec(f"import os\nopen('a.txt', 'w').write('changed')\n{guest}")
            with pytest.raises(pyisolate.SandboxError, match="neither file nor directory"):
                sandbox.files.commit()
            assert contents(tree) == before


def test_what_the_host_changed_itself_is_not_overwritten(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    with supervisor.spawn("both", BASE, copy_on_write=tree) as sandbox:
        sandbox.exec(CHANGE)
        (tree / "old/late").write_text("by the host")
        (tree / "new").symlink_to("/etc")
        (tree / "a.txt").write_text("by the host")
        before = contents(tree)
        with pytest.raises(pyisolate.SandboxError, match=r"a.txt.*changed in") as caught:
            sandbox.files.commit()
        assert "old" in str(caught.value)
        assert contents(tree) == before


def test_a_directory_that_became_a_link_is_not_followed(
    supervisor: pyisolate.Supervisor, tree: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with supervisor.spawn("linked", BASE, copy_on_write=tree) as sandbox:
        sandbox.exec("open('old/added', 'w').write('x')")
        (tree / "old/x").unlink()
        (tree / "old").rmdir()
        (tree / "old").symlink_to(elsewhere)
        with pytest.raises(pyisolate.SandboxError, match="changed in"):
            sandbox.files.commit()
        assert list(elsewhere.iterdir()) == []
        (tree / "old").unlink()
        with pytest.raises(pyisolate.SandboxError, match="changed in"):
            sandbox.files.commit()
        assert "old" not in contents(tree)


def test_what_does_not_fit_and_what_is_no_directory(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    (tree / "big").write_bytes(b"x" * (2 << 20))
    with pytest.raises(pyisolate.SandboxError, match="does not fit"):
        supervisor.spawn("big", BASE, copy_on_write=tree)
    for path, error in ((tree / "a.txt", NotADirectoryError), (tree / "none", FileNotFoundError)):
        with pytest.raises(error):
            supervisor.spawn("no", BASE, copy_on_write=path)
    with pytest.raises(pyisolate.EnforcementError, match="no workspace"):
        supervisor.spawn("none", "none", copy_on_write=tree)
    with supervisor.spawn("plain", BASE) as sandbox, pytest.raises(pyisolate.SandboxError, match="no copy"):
        sandbox.files.diff()


def committing(tree: Path, own: Path, left: int) -> int:
    """Change and commit in a process that dies at the call that `left` counts; return its status."""
    if (child := os.fork()) == 0:
        calls = {name: getattr(os, name) for name in ("mkdir", "rename", "unlink", "rmdir", "fsync", "open")}

        def counted(name: str) -> Any:
            def made(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return calls[name](*args, **kwargs)

            return made

        try:
            copy, top = CopyOnWrite(str(tree)), os.open(own, os.O_RDONLY)
            copy.fill(top)
            os.chdir(own)
            exec(CHANGE)
            for name in calls:
                setattr(os, name, counted(name))
            copy.commit(top)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_no_guest_holds_the_lock_of_this_users_commits(
    tree: Path, supervisor: pyisolate.Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = commit_record.place()
    old.mkdir(mode=0o700, parents=True)
    found = tree.stat()
    locks = old / f"lock-{(found.st_dev ^ found.st_ino) % commit_record._LOCKS}"
    os.close(os.open(locks, os.O_CREAT | os.O_RDWR, 0o600))  # as an earlier version made it
    with supervisor.spawn("copy", BASE, copy_on_write=tree) as sandbox:
        sandbox.exec("open('a.txt', 'a').write(' more')")
        policy = BASE.allow_read(str(tmp_path / "state")).allow_read(str(tree)).allow_import("fcntl")
        with supervisor.spawn("reader", policy) as reader:
            held = (
                "import fcntl\ndef held(path):\n    global kept\n    kept = open(path)\n"
                "    fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            )
            if os.geteuid() != 0:
                reader.exec(f"{held}held({str(tree / 'a.txt')!r})")  # the control: what it may read it can lock
            with pytest.raises(pyisolate.GuestError, match="Permission denied"):  # its mode lets nobody read it
                reader.exec(f"{held}held({str(locks)!r})")
            assert [one.path for one in sandbox.files.commit()] == ["a.txt"]
    monkeypatch.setattr(commit_record, "_LOCKED_WITHIN_S", 0.0)
    with open(locks, "wb") as own:
        fcntl.flock(own, fcntl.LOCK_EX)
        with (
            pytest.raises(SandboxError, match="another process of this user"),
            supervisor.spawn("late", BASE, copy_on_write=tree),
        ):
            pass


def test_a_commit_that_is_killed_is_done_or_not(plain: Callable[[], Path], tmp_path: Path) -> None:
    seen, status, step = set(), -signal.SIGKILL, 0
    while status != 0:
        tree, own = plain(), tmp_path / f"own{step}"
        own.mkdir()
        before = contents(tree)
        status = committing(tree, own, step)
        assert status in (0, -signal.SIGKILL)
        left = [name for name in os.listdir(tree) if name.startswith(commit.STAGING)]
        journal = any((tree / name / "journal").exists() for name in left)
        host = os.open(tree, os.O_RDONLY)
        try:
            fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock ended with the process
            commit.finish(host)
        finally:
            os.close(host)
        after = contents(tree)
        done = after["a.txt"] == "a more"
        made = {name: text for name, text in contents(own).items() if not name.startswith(".cache")}
        assert after == (made if done else before), step
        assert done or not journal
        assert done or status != 0
        seen.add((bool(left), journal, done))
        step += 1
    assert seen == {
        (False, False, False),
        (True, False, False),
        (True, True, True),
        (True, False, True),
        (False, False, True),
    }


def test_on_the_command_line(supervisor: pyisolate.Supervisor, tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "edit.py"
    script.write_text("import sys\nopen('a.txt', 'w').write('new')\nsys.exit(int(sys.argv[1]))")
    command = [sys.executable, "-m", "pyisolate", "run", "--copy-on-write", str(tree), "--commit", str(script)]
    for status, text in (("3", "a"), ("0", "new")):
        done = subprocess.run([*command, status], capture_output=True, text=True, timeout=60)
        assert done.returncode == int(status), done.stderr
        assert f"{'committed' if text == 'new' else 'changed'}: M a.txt (file, 3 bytes)" in done.stderr
        assert (tree / "a.txt").read_text() == text
    done = subprocess.run([*command[:4], "--commit", str(script)], capture_output=True, text=True, timeout=60)
    assert "--copy-on-write" in done.stderr
    if os.geteuid() == 0:
        os.chown(tree, 65534, 65534)
    text = "open('made', 'w').write('m')"
    done = subprocess.run([*command[:4], "--workspace", str(tree), "-c", text], timeout=60)
    assert (done.returncode, (tree / "made").read_text()) == (0, "m")


def test_what_the_host_puts_where_a_killed_commit_deletes_stays(tree: Path, tmp_path: Path) -> None:
    mark = commit.mark_of((tree / "gone.txt").stat())
    staging = tree / f"{commit.STAGING}x"
    staging.mkdir(mode=0o700)
    names = {"deleted": [["gone.txt", mark], ["moved", mark]], "directories": [], "files": [], "digests": []}
    host = os.open(tree, os.O_RDONLY)

    def leave() -> None:
        (staging / "journal").write_bytes(data := msgspec.msgpack.encode(names))
        assert commit_record.note(host, staging.name, data)

    try:
        leave()
        commit.finish(host)
        assert "gone.txt" not in contents(tree)
        assert "moved" in contents(tree)
        staging.mkdir(mode=0o700)
        names["deleted"] = [["../outside", mark]]
        leave()
        with pytest.raises(pyisolate.SandboxError, match="damaged"):
            commit.finish(host)
    finally:
        os.close(host)


def test_what_a_guest_changes_after_it_was_compared_gets_no_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest of the same user that may write to the directory: it swapped what was staged before the rename."""
    before, staging = contents(tree), tree / f"{commit.STAGING}x"
    staging.mkdir(mode=0o700)
    (staging / "0").write_bytes(b"staged")
    digest = hashlib.blake2b(b"staged").digest()
    data = msgspec.msgpack.encode({"deleted": [], "directories": [], "files": ["old/x"], "digests": [digest]})
    (staging / "journal").write_bytes(data)
    host, guests = os.open(tree, os.O_RDONLY), os.open(staging / "0", os.O_WRONLY)
    is_staged = commit._is_staged

    def swapped(*arguments: Any) -> bool:
        found = is_staged(*arguments)
        os.pwrite(guests, b"change", 0)
        return found

    try:
        assert commit_record.note(host, staging.name, data)
        with monkeypatch.context() as patched:
            patched.setattr(commit, "_is_staged", swapped)
            with pytest.raises(pyisolate.SandboxError, match="number 0 was changed"):
                commit.finish(host)
        assert (tree / "old/x").read_text() == before["old/x"]
        os.pwrite(guests, b"staged", 0)
        commit.finish(host)
        os.pwrite(guests, b"change", 0)
        assert contents(tree) == {**before, "old/x": "staged"}
    finally:
        os.close(host)
        os.close(guests)


def test_a_commit_that_a_guest_made_up_is_not_finished(tree: Path) -> None:
    """A guest of the same user, which may write to the directory, but not to all of it."""
    before = contents(tree)
    staging = tree / f"{commit.STAGING}x"
    staging.mkdir(mode=0o700)
    digest = hashlib.blake2b(b"forged").digest()
    (staging / "0").write_bytes(b"forged")
    names = {"deleted": [], "directories": [], "files": ["old/x"], "digests": [digest]}
    (staging / "journal").write_bytes(data := msgspec.msgpack.encode(names))
    host = os.open(tree, os.O_RDONLY)
    try:
        with pytest.raises(pyisolate.SandboxError, match="this user began it"):
            commit.finish(host)
        assert commit_record.note(host, staging.name, data)  # the control: one that this user began
        (staging / "0").write_bytes(b"change")  # what a guest makes of what was staged
        with pytest.raises(pyisolate.SandboxError, match="number 0 was changed"):
            commit.finish(host)
        assert (tree / "old/x").read_text() == before["old/x"]
        (staging / "0").write_bytes(b"forged")
        commit.finish(host)
        assert contents(tree) == {**before, "old/x": "forged"}
        staging.mkdir(mode=0o700)  # the same again: it is done, and noted no more
        (staging / "0").write_bytes(b"forged")
        (staging / "journal").write_bytes(data)
        with pytest.raises(pyisolate.SandboxError, match="this user began it"):
            commit.finish(host)
    finally:
        os.close(host)


def test_what_a_guest_may_write_to_is_not_copied_for_it(supervisor: pyisolate.Supervisor, tree: Path) -> None:
    reads, writes = BASE.allow_read(tree / "old"), BASE.allow_write(tree / "old")
    for path in (tree, tree.parent):
        path.chmod(0o755)
    with supervisor.spawn("reads", reads, copy_on_write=tree, enforcement="best_effort") as sandbox:
        assert sandbox.files.diff() == []
    with pytest.raises(pyisolate.EnforcementError, match="write to the directory itself"):
        supervisor.spawn("writes", writes, copy_on_write=tree, enforcement="best_effort")
