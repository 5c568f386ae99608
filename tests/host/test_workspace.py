"""The workspace: each sandbox's own, bounded, where programs look for a place to write, and gone with the sandbox."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate.capability import Capability
from pyisolate.policy import suggest, workspace
from pyisolate.supervisor import given_directory
from pyisolate.supervisor.given_directory import GivenDirectory
from tests.leaks import children_of
from tests.require import require, require_tmp_leads

pytestmark = pytest.mark.usefixtures("kept_supervisor")


PLACE = workspace.HOME
BASE = pyisolate.Policy.preset("compute").with_workspace("1MiB")
WRITE = "open('mine', 'w').write('secret of one')"


@pytest.fixture(autouse=True)
def _has_workspace(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("probe", BASE) as sandbox:
        made = any(note.startswith("workspace") for note in sandbox.enforcement.notes)
        require("root_view", made, "; ".join(sandbox.enforcement.notes))


def test_programs_find_it_where_they_look(supervisor: pyisolate.Supervisor) -> None:
    require_tmp_leads(BASE)
    with supervisor.spawn("places", BASE) as sandbox:
        assert sandbox.eval("__import__('os').getcwd()") == PLACE
        assert sandbox.eval("__import__('tempfile').gettempdir()") == PLACE
        assert sandbox.eval("__import__('os').path.expanduser('~')") == PLACE
        assert sandbox.eval("__import__('os').listdir('.')") == []
        sandbox.exec("import os\nopen('/tmp/a', 'w').write('x')\nos.makedirs('d/e')\nos.rename('a', 'd/e/b')")
        assert sandbox.eval("open('/dev/shm/d/e/b').read()") == "x"
        sandbox.exec(
            "import sqlite3\nc = sqlite3.connect('t.db')\nc.execute('create table t (x)')\n"
            "c.execute('insert into t values (7)')\nc.commit()"
        )
        assert sandbox.eval("sqlite3.connect('t.db').execute('select x from t').fetchone()[0]") == 7
        assert sandbox.get_denial_events() == []


@pytest.mark.once
def test_names_lead_there_where_code_of_any_kind_is_granted_and_none_of_it_can_be_mapped(
    supervisor: pyisolate.Supervisor,
) -> None:
    """Whatever may be mapped from anywhere, that rule speaks of no place, and memory that is written runs no code."""
    policy = BASE.allow_native("*").allow_import("*")
    require_tmp_leads(policy)
    with supervisor.spawn("any code", policy) as sandbox:
        sandbox.exec(
            "import _ctypes, ctypes, shutil\nlibrary = shutil.copy(_ctypes.__file__, '/tmp/planted.so')\n"
            "known = ctypes.CDLL(_ctypes.__file__)"  # the control
        )
        assert sandbox.eval("__import__('os').listdir('.')") == ["planted.so"]
        assert sandbox.get_denial_events() == []
        with pytest.raises(pyisolate.PolicyError, match=r"import\.native, on .*/planted\.so") as caught:
            sandbox.exec("ctypes.CDLL('/tmp/planted.so')")
        assert caught.value.denial_event.suggestion == {"process": [{"exec": PLACE}]}
        with pytest.raises(pyisolate.PolicySyntaxError, match="gives its files any name"):
            supervisor.spawn("named", BASE.allow_native(f"{PLACE}/planted.so"))


def test_what_needs_shared_memory_works_where_processes_are_granted(supervisor: pyisolate.Supervisor) -> None:
    source = (
        "import multiprocessing, os, _posixshmem\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n    squares = pool.map(pow_two, [1, 2, 3])\n"
        "block = _posixshmem.shm_open('/block', os.O_CREAT | os.O_RDWR, mode=0o600)\nos.write(block, b'7')\n"
        "first = open('/dev/shm/block').read()\n_posixshmem.shm_unlink('/block')\n"
    )
    with supervisor.spawn("pool", BASE.allow_fork()) as sandbox:
        sandbox.exec("def pow_two(x): return x * x")
        sandbox.exec(source, timeout=20)
        assert sandbox.eval("squares + [first]") == [1, 4, 9, "7"]
        targets = [event.target for event in sandbox.get_denial_events()]
        assert [target for target in targets if "/shm" in target or PLACE in target] == []


def test_no_sandbox_sees_anothers(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("one", BASE) as one, supervisor.spawn("two", BASE) as two:
        one.exec(WRITE)
        assert one.eval("open('mine').read()") == "secret of one"
        assert two.eval("__import__('os').listdir('.')") == []
        with pytest.raises(pyisolate.GuestError, match="FileNotFoundError"):
            two.exec(f"open('{PLACE}/mine').read()")
    for _ in range(6):  # standby cells too
        with supervisor.spawn("later", BASE) as later:
            assert later.eval("__import__('os').listdir('.')") == []
            later.exec(WRITE)


def test_nothing_around_it_can_be_written(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("around", BASE) as sandbox:
        for name in (f"{workspace.ROOT}/x", f"{PLACE}x", f"{PLACE}/../x"):
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(f"open({name!r}, 'w')")
            assert caught.value.denial_event.capability is Capability.FS_CREATE
        native = (
            "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"at = libc.open(b'{workspace.ROOT}/y', os.O_CREAT | os.O_WRONLY, 0o600)\nat, ctypes.get_errno()"
        )
    with supervisor.spawn("native", BASE.allow_native("ctypes")) as sandbox:
        answer, number = sandbox.exec(native).value
        assert answer == -1
        assert number in (1, 13, 30)


def test_it_runs_no_program(supervisor: pyisolate.Supervisor) -> None:
    policy = BASE.allow_exec("/bin/true").allow_read("/bin/true")
    copy = "import shutil, subprocess\nshutil.copy('/bin/true', 'tool')\n"
    with supervisor.spawn("exec", policy) as sandbox:
        assert sandbox.exec("import subprocess\nsubprocess.run(['/bin/true']).returncode").value == 0
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(copy + "subprocess.run(['./tool'])")
        assert caught.value.denial_event.target == f"{PLACE}/tool"


@pytest.mark.parametrize("memory", [True, False])
def test_what_the_guest_writes_runs_where_that_is_granted(
    supervisor: pyisolate.Supervisor, given: Path, memory: bool
) -> None:
    base = pyisolate.Policy.preset("shell")
    made = "printf '#!/bin/sh\\necho script $1\\n' > a.sh; cp /usr/bin/true tool; chmod +x a.sh tool\n"
    run = [*("sh -c").split(), made + "./a.sh one; ./tool; echo $?"]
    place: Any = None if memory else given
    for policy, expected in ((base, b"126\n"), (base.allow_exec(PLACE), b"script one\n0\n")):
        with supervisor.spawn("made", policy, workspace=place) as sandbox:
            assert sandbox.run(run).stdout == expected
            refused = [(event.target, event.suggestion) for event in sandbox.get_denial_events()]
            suggestion = {"process": [{"exec": PLACE}]}
            names = ("a.sh", "tool") if policy is base else ()
            where = PLACE if memory else workspace.PROJECT
            assert refused == [(f"{where}/{name}", suggestion) for name in names]
            if policy is base:
                assert suggest.apply(base, suggestion) == base.allow_exec(PLACE)
    with pytest.raises(pyisolate.PolicySyntaxError, match="gives its files any name"):
        supervisor.spawn("named", base.allow_exec(f"{PLACE}/tool"))


def test_libraries_in_it_load_where_running_it_is_granted(supervisor: pyisolate.Supervisor) -> None:
    """As of packages that pip puts there: the module's name takes a rule, its place another."""
    policy = BASE.allow_native("own")
    library = Path(importlib.util.find_spec("_lsprof").origin or "")  # type: ignore[union-attr]
    source = "from importlib.machinery import ExtensionFileLoader\nExtensionFileLoader('own', 'own.so').load_module()"
    for one in (policy, policy.allow_exec(PLACE)):
        with supervisor.spawn("library", one, files={"own.so": library}) as sandbox:
            if one is policy:
                with pytest.raises(pyisolate.PolicyError) as caught:
                    sandbox.exec(source)
                assert caught.value.denial_event.target == f"{PLACE}/own.so"
            else:
                with pytest.raises(pyisolate.GuestError, match="PyInit_own"):  # it was mapped
                    sandbox.exec(source)


def test_a_full_workspace_is_an_error_an_event_and_not_the_end(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("full", BASE) as sandbox:
        with pytest.raises(pyisolate.WorkspaceExceeded) as caught:
            sandbox.exec("open('big', 'wb').write(b'x' * (2 << 20))")
        assert caught.value.allowed == 1 << 20
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.capability is Capability.LIMIT_WORKSPACE
        sandbox.exec(
            "import errno\ntry: open('more', 'wb').write(b'x' * 9999)\nexcept OSError as e: assert e.errno == 28"
        )
        assert len(sandbox.get_denial_events()) == 1
        sandbox.exec("import os\nos.unlink('big')\nopen('small', 'w').write('x')")
        assert len(sandbox.get_denial_events()) == 1
        many = sandbox.exec(
            "n = 0\ntry:\n  while True: open(f'f{n}', 'w'); n += 1\nexcept OSError as e: r = e.errno\n(n, r)"
        )
        assert many.value[1] == 28
        assert many.value[0] < 1000  # names are bounded as well
        assert [event.capability.value for event in many.denials] == ["limit.workspace"]


@pytest.mark.parametrize("limit", ["disk", "files"])
def test_sums_of_what_is_written(supervisor: pyisolate.Supervisor, limit: str, tmp_path: Path) -> None:
    policy = BASE.with_limits(**{limit: {"disk": "256KiB", "files": 5}[limit]})
    write = {
        "disk": "for n in range(9): open(f'f{n}', 'wb').write(b'x' * 60_000)",
        "files": "os.mkdir('d')\nfor n in range(9): open(f'd/f{n}', 'w').close()",
    }[limit]
    kind = {"disk": pyisolate.DiskExceeded, "files": pyisolate.FilesExceeded}[limit]
    with supervisor.spawn("control", BASE) as sandbox:
        assert sandbox.exec("import os\n" + write).denials == ()
    with supervisor.spawn("sums", policy) as sandbox:
        with pytest.raises(kind) as caught:
            sandbox.exec("import os\n" + write)
        assert caught.value.allowed == {"disk": 256 << 10, "files": 5}[limit]
        assert [event.capability.value for event in sandbox.get_denial_events()] == [f"limit.{limit}"]
        made = sandbox.files.list(recursive=True)
        assert len(made) == 5
        assert sum(entry.size for entry in made) <= 256 << 10
        with pytest.raises(pyisolate.EnforcementError, match="keeps its size"):
            sandbox.reload_policy(BASE)
    fill = {"disk": "open('f', 'wb').write(b'x' * (2 << 20))", "files": "for n in range(999): open(f'f{n}', 'w')"}
    more = BASE.with_limits(disk="32MiB", files=99_999)  # the workspace is the smaller one
    with (
        supervisor.spawn("more", more) as sandbox,
        pytest.raises(pyisolate.WorkspaceExceeded, match="raise workspace in"),
    ):
        sandbox.exec(fill[limit])
    for above in list(tmp_path.parents)[:2]:
        above.chmod(0o755)
    tmp_path.chmod(0o777)
    writes = policy.allow_write(tmp_path)
    for other, where in ((writes, str(tmp_path)), (policy.with_mode("monitor"), "monitor")):
        with pytest.raises(pyisolate.EnforcementError, match=rf"limits\.{limit}: .* nothing counts .*{where}"):
            supervisor.spawn("elsewhere", other)
    with supervisor.spawn("less", writes, enforcement="best_effort") as sandbox:
        lines = {line.capability.value: line.coverage.value for line in sandbox.enforcement.capabilities}
        assert (lines[f"limit.{limit}"], len(sandbox.enforcement.missing)) == ("partial", 1)


def test_it_is_memory_of_the_sandbox(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("memory", BASE.with_workspace("32MiB")) as sandbox:
        before = sandbox.stats.memory_bytes
        sandbox.exec("open('big', 'wb').write(b'x' * (16 << 20))")
        after = sandbox.stats.memory_bytes
        assert before is not None
        assert after is not None
        assert after - before >= 15 << 20


def test_what_the_policy_grants_keeps_its_name(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for above in list(tmp_path.parents)[:2]:
        above.chmod(0o755)
    (tmp_path / "granted").write_text("the host's")
    granted = str(tmp_path / "granted")
    assert granted.startswith("/tmp/")
    with supervisor.spawn("granted", BASE.allow_read(granted)) as sandbox:
        assert sandbox.eval(f"open({granted!r}).read()") == "the host's"
        assert sandbox.exec("open('own', 'w').write('x'); open('own').read()").value == "x"
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/tmp/own', 'w')")


def test_asked_for_by_spawn(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("sized", "none", workspace=1 << 16) as sandbox:
        assert sandbox.policy.workspace == 1 << 16
    limits = {"memory": None, "processes": None, "open_files": None, "file_size": None}
    with pytest.raises(pyisolate.EnforcementError, match="no workspace"):
        supervisor.spawn("no", BASE, workspace="1MiB", limits=limits, isolation="thread")
    everywhere = BASE.allow_read("/").allow_write("/")
    with supervisor.spawn("less", everywhere, workspace="1MiB", enforcement="best_effort") as sandbox:
        assert any(note.startswith("no workspace") for note in sandbox.enforcement.notes)
    for wrong in ("1KiB", "2TiB", "much", 0, True):
        with pytest.raises(pyisolate.PolicySyntaxError):
            supervisor.spawn("no", "none", workspace=wrong)
    with pytest.raises(pyisolate.PolicySyntaxError, match="place of the workspace"):
        supervisor.spawn("no", BASE.allow_read(f"{workspace.ROOT}/x"))


@pytest.mark.parametrize("how", ["monitor", "everything"])
def test_with_the_hosts_tree_it_is_the_same(supervisor: pyisolate.Supervisor, how: str) -> None:
    policy = BASE.with_mode("monitor") if how == "monitor" else BASE.allow_read("/")
    with supervisor.spawn("one", policy, files={"in": "x"}) as one, supervisor.spawn("two", policy) as two:
        where = "__import__('os').getcwd(), __import__('tempfile').gettempdir(), __import__('os').listdir('.')"
        assert one.eval(where) == (PLACE, PLACE, ["in"])
        one.exec(WRITE)
        assert one.files.read_text("mine") == "secret of one"
        assert two.eval("__import__('os').listdir('.')") == []
        seen = one.eval("sorted(__import__('os').listdir('/'))")
        assert set(seen) - {"sandbox"} == set(os.listdir("/")) - {"sandbox"}
        assert one.eval("open('/usr/bin/env', 'rb').read(4)") == b"\x7fELF"
        with pytest.raises(pyisolate.WorkspaceExceeded):
            one.exec("open('big', 'wb').write(b'x' * (2 << 20))")
        targets = [event.target for event in one.get_denial_events() if event.capability.value.startswith("fs.")]
        assert set(targets) == ({"/", "/usr/bin/env"} if how == "monitor" else set())
    if how == "everything":
        with supervisor.spawn("refused", policy.allow_native("ctypes")) as refused:
            assert refused.exec("import os, ctypes\nctypes.CDLL(None).open(b'/x', os.O_CREAT | 1, 0o600)").value == -1
            assert refused.exec("ctypes.CDLL(None).open(b'/usr/x', os.O_CREAT | 1, 0o600)").value == -1


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Return a directory that guests may be given: of the user that they write as."""
    made = tmp_path / "given"
    made.mkdir()
    (made / "in.txt").write_text("the host's")
    if os.geteuid() == 0:
        for path in (made, made / "in.txt"):
            os.chown(path, 65534, 65534)
    return made


def test_a_directory_of_the_host_takes_its_place(supervisor: pyisolate.Supervisor, given: Path) -> None:
    policy = BASE.with_workspace(None).allow_exec("/bin/true").allow_read("/bin/true")
    with supervisor.spawn("given", policy, workspace=given, files={"more.txt": "m"}) as sandbox:
        assert sandbox.exec("import os\nopen('out', 'w').write('o')\nopen('in.txt').read(), os.getcwd()").value == (
            "the host's",
            workspace.PROJECT,
        )
        assert sorted(entry.path for entry in sandbox.files.list()) == ["in.txt", "more.txt", "out"]
        unbounded = next(one for one in sandbox.enforcement.capabilities if one.capability.value == "limit.workspace")
        assert (unbounded.coverage.value, sandbox.enforcement.missing) == ("partial", ())
        assert sum(str(given) in note and "nothing bounds" in note for note in sandbox.enforcement.notes) == 1
        assert sandbox.get_denial_events() == []
        with pytest.raises((pyisolate.PolicyError, pyisolate.GuestError)):  # /tmp is no other place for the guest
            sandbox.exec(f"open({str(given / 'in.txt')!r})")  # by its own name it is what the policy says
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("import shutil, subprocess\nshutil.copy('/bin/true', 'tool')\nsubprocess.run(['./tool'])")
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("os.chmod('tool', 0o4755)")
    with supervisor.spawn("other", BASE) as other:
        assert other.eval("__import__('os').listdir('.')") == []
    assert sorted(os.listdir(given)) == ["in.txt", "more.txt", "out", "tool"]
    assert (given / "tool").stat().st_uid == given.stat().st_uid


def test_what_programs_keep_for_themselves_is_beside_a_directory_of_the_hosts(
    supervisor: pyisolate.Supervisor, given: Path
) -> None:
    with supervisor.spawn("given", BASE.allow_import("tempfile"), workspace=given) as sandbox:
        sandbox.exec(
            "import os, tempfile\n"
            "kept = [os.environ[name] for name in ('HOME', 'TMPDIR', 'MPLCONFIGDIR', 'XDG_CACHE_HOME')]\n"
            "for place in [*kept, '/tmp', '/dev/shm']:\n"
            "    os.makedirs(place, exist_ok=True)\n"
            "    tempfile.NamedTemporaryFile(dir=place, delete=False).close()\n"
            "open('/tmp/note', 'w').write('own')\nopen('result', 'w').write('r')"
        )
        assert sandbox.eval("sorted(os.listdir('.'))") == ["in.txt", "result"]
        assert sandbox.files.read_text("/tmp/note") == sandbox.files.read_text(f"{PLACE}/note") == "own"
        for name in ("result", f"{workspace.PROJECT}/result"):
            assert sandbox.files.read_text(name) == "r"
        sandbox.files.write("a.txt", "a")
        with pytest.raises(pyisolate.WorkspaceExceeded):
            sandbox.exec("open('/tmp/big', 'wb').write(b'x' * (2 << 20))")
        sandbox.exec("open('big', 'wb').write(b'x' * (2 << 20))")  # the control
        assert [event.capability.value for event in sandbox.get_denial_events()] == ["limit.workspace"]
    assert sorted(os.listdir(given)) == ["a.txt", "big", "in.txt", "result"]


def test_no_guest_of_root_takes_a_directory_of_the_hosts_away(supervisor: pyisolate.Supervisor, given: Path) -> None:
    """Else its names would be others for the guest than for the host. An ordinary user owns all that is in memory."""
    require("root", os.geteuid() == 0, "this run is not root")
    move = "import os\nos.mkdir('{0}/p')\nos.rename('{0}/p', '{0}/q')\nos.rename('{1}', '{0}/moved')"
    with supervisor.spawn("given", BASE, workspace=given) as sandbox:
        with pytest.raises(pyisolate.PolicyError, match=f"fs.delete, on {workspace.PROJECT}"):
            sandbox.exec(move.format(PLACE, workspace.PROJECT))
        assert sandbox.eval("sorted(os.listdir('/tmp'))") == ["project", "q"]  # the control: its own it may move
        assert sandbox.eval("os.listdir('.')") == ["in.txt"]


def test_what_no_guest_is_given(
    supervisor: pyisolate.Supervisor, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(given)
    with pytest.raises(ValueError, match="symbolic link"):
        supervisor.spawn("no", BASE, workspace=tmp_path / "link")
    with pytest.raises(NotADirectoryError):
        supervisor.spawn("no", BASE, workspace=given / "in.txt")
    denied = {
        "version": 1,
        "name": "d",
        "extends": "compute",
        "fs": [{"path": str(given / "in.txt"), "deny": ["read"]}],
    }
    below = {**denied, "fs": [{"path": str(tmp_path), "deny": ["read"]}]}
    with pytest.raises(pyisolate.EnforcementError, match=r"rule for .*in\.txt"):
        supervisor.spawn("no", pyisolate.Policy.from_dict(denied), workspace=given)
    with supervisor.spawn("narrower", pyisolate.Policy.from_dict(below), workspace=given) as sandbox:
        assert sandbox.eval("open('in.txt').read()") == "the host's"
    with pytest.raises(pyisolate.EnforcementError, match="its owner is user 0"):
        supervisor.spawn("no", BASE, workspace=Path("/etc"), enforcement="best_effort")
    with monkeypatch.context() as patched:
        patched.setattr(given_directory, "_PACKAGE", str(given / "out"))
        with pytest.raises(pyisolate.EnforcementError, match="what this process"):
            supervisor.spawn("no", BASE, workspace=given, enforcement="best_effort")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "path", [*sys.path, str(given)])
        with pytest.raises(pyisolate.EnforcementError, match=r"sys\.path"):
            supervisor.spawn("no", BASE, workspace=given)
    for variable, why in (("XDG_CACHE_HOME", "guests import"), ("XDG_STATE_HOME", "commits are finished")):
        with monkeypatch.context() as patched:
            patched.setenv(variable, str(given / "kept"))
            with pytest.raises(pyisolate.EnforcementError, match=why):
                supervisor.spawn("no", BASE, workspace=given)
    with pytest.raises(pyisolate.EnforcementError, match=r"limits\.files: 9: nothing counts"):
        supervisor.spawn("no", BASE, workspace=given, limits={"files": 9})
    with pytest.raises(ValueError, match="copy_on_write"):
        supervisor.spawn("no", BASE, workspace=given, copy_on_write=given)
    limits = {"memory": None, "processes": None, "open_files": None, "file_size": None}
    with pytest.raises(pyisolate.EnforcementError, match="no workspace"):
        supervisor.spawn("no", BASE, workspace=given, limits=limits, isolation="thread")


def test_a_directory_that_is_replaced_meanwhile_is_not_given(
    supervisor: pyisolate.Supervisor, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*_: object) -> None:
        given.rename(given.with_name("moved"))
        given.symlink_to("/etc") if link else given.mkdir()

    monkeypatch.setattr(GivenDirectory, "check", replaced)
    for link in (False, True):
        with pytest.raises(pyisolate.EnforcementError, match="symbolic links" if link else "another one"):
            supervisor.spawn("no", BASE, workspace=given)
        given.unlink() if link else given.rmdir()
        given.with_name("moved").rename(given)


def test_without_one_nothing_is_there(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("without", BASE.with_workspace(None)) as sandbox:
        assert sandbox.eval("__import__('os').getcwd()") == "/"
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(f"open('{PLACE}/x', 'w')")


def test_a_stager_that_was_killed_is_replaced(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("first", BASE) as first:
        first.exec(WRITE)
        builders = [pid for pid in children_of(os.getpid()) if _runs(pid, "rootview.forker")]
        stagers = [pid for builder in builders for pid in children_of(builder)]
        assert stagers
        for pid in stagers:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(os.path.exists(f"/proc/{pid}") for pid in stagers) and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(3):
            with supervisor.spawn("second", BASE) as second:
                assert second.eval("__import__('os').listdir('.')") == []
        assert first.eval("open('mine').read()") == "secret of one"


def _runs(pid: int, what: str) -> bool:
    return what in Path(f"/proc/{pid}/cmdline").read_text()


def test_users_of_a_range_write_theirs(tmp_path: Path) -> None:
    require("root", os.geteuid() == 0, "this run is not root")
    with (
        pyisolate.Supervisor(pool_size=1, cell_uids=range(60000, 60004)) as supervisor,
        supervisor.spawn("one", BASE) as one,
        supervisor.spawn("two", BASE) as two,
    ):
        for sandbox in (one, two):
            assert sandbox.exec(WRITE + "\nopen('mine').read()").value == "secret of one"
        with pytest.raises(pyisolate.EnforcementError, match="another user"):
            supervisor.spawn("given", BASE, workspace=tmp_path)


def test_a_tightening_reload_keeps_it(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("reload", BASE.allow_read("/etc/hostname")) as sandbox:
        sandbox.exec(WRITE)
        try:
            sandbox.reload_policy(BASE)
        except pyisolate.EnforcementError as error:
            pytest.skip(str(error))
        assert sandbox.exec("open('more', 'w').write('x'); open('mine').read()").value == "secret of one"


def test_no_reload_bounds_a_directory_of_the_hosts(supervisor: pyisolate.Supervisor, given: Path) -> None:
    bounded = BASE.with_limits(files=9, disk="64KiB")
    with supervisor.spawn("given", BASE, workspace=given) as sandbox:
        with pytest.raises(
            pyisolate.EnforcementError, match=r"limits\.disk: 65536; limits\.files: 9: .*nothing counts"
        ):
            sandbox.reload_policy(bounded)
        assert sandbox.policy.version == BASE.version
        sandbox.reload_policy(BASE.with_limits(wall="9s"))  # the control
    with supervisor.spawn("less", BASE, workspace=given, enforcement="best_effort") as sandbox:
        sandbox.reload_policy(bounded)
        covered = {one.capability.value: one.coverage.value for one in sandbox.enforcement.capabilities}
        assert (covered["limit.disk"], covered["limit.files"]) == ("none", "none")
