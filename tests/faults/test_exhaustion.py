"""A host, a zygote or a kernel table runs out: a clear error within seconds, nothing kept, and it works again after."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks.audit import AuditLog
from pyisolate.telemetry.sinks.audit_reader import read_events
from tests import inside, leaks
from tests.faults.orphans import TREE
from tests.in_child import in_child
from tests.require import require

MIB = 1 << 20
WORDS = {
    "descriptors": "Too many open files",
    "memory": ("Cannot allocate memory", "start new thread", "out of memory", "memory is short"),
}

#: The exit status with which the C library's loader ends a process (elf/dl-tls.c, `oom`).
LOADER_GAVE_UP = 127
#: limits of output, each for a policy that no spawn had before
_BYTES = itertools.count(1 << 20)


def starve(what: str, count: int, when: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).parent / "starved.py"), what, str(count), when]
    for _ in range(5):
        done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=25, check=False)
        if done.returncode != LOADER_GAVE_UP or "thread-local data" not in done.stderr:
            break  # the loader itself ends a process without memory for a thread's data: no error can be raised there
    else:
        pytest.fail("five starts in turn ended in the interpreter or the loader")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def places(cold: list[int], warm: list[int], *, more: list[int]) -> list[Any]:
    """Where to starve a host: a choice for each run, and all the rest for `make soak`."""
    chosen = [(n, "cold") for n in cold] + [(n, "warm") for n in warm]
    rest = [(n, when) for n in (*cold, *warm, *more) for when in ("cold", "warm") if (n, when) not in chosen]
    return [*chosen, *(pytest.param(*one, marks=pytest.mark.soak) for one in sorted(set(rest)))]


@pytest.mark.tried_again
@pytest.mark.parametrize(("count", "when"), places([0, 5, 11, 42, 61], [0, 3, 22, 45], more=[1, 9, 14, 35, 50, 75]))
def test_a_host_without_descriptors(count: int, when: str) -> None:
    """EMFILE at another place in each: probes, helpers, the zygote, tables, the cell's own descriptors."""
    expect(starve("descriptors", count, when), WORDS["descriptors"])


@pytest.mark.tried_again
@pytest.mark.parametrize(("mib", "when"), places([0, 7, 17, 40], [2, 11, 24], more=[80]))
def test_a_host_without_memory(mib: int, when: str) -> None:
    """ENOMEM, MemoryError, and threads that cannot be started."""
    expect(starve("memory", mib * MIB, when), WORDS["memory"])


def expect(seen: dict[str, Any], words: str | tuple[str, ...]) -> None:
    starved = seen["starved"]
    if "error" in starved:
        assert starved["sandbox_error"], starved
        assert any(word in starved["text"] for word in ([words] if isinstance(words, str) else words)), starved
        assert "Hint: " in starved["text"]
        assert starved["text"].count("Hint: ") == 1
    else:
        assert starved["value"] == 42
    assert starved["seconds"] < 12
    assert seen["again"].get("value") == 42, seen
    assert seen["left"] == {}
    assert seen["threads"] == 0


@pytest.mark.timeout(180)
def test_as_many_sandboxes_as_there_are_descriptors() -> None:
    program = (
        "import json, os, resource, pyisolate\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "supervisor = pyisolate.Supervisor(pool_size=2).start()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        "open_ones, text = [], ''\n"
        "while not text:\n"
        "    try: open_ones.append(supervisor.spawn('one of many'))\n"
        "    except pyisolate.SandboxError as error: text = str(error)\n"
        "works = sum(1 for one in open_ones if one.eval('1') == 1)\n"
        "for one in open_ones[:5]: one.close()\n"
        "import time; time.sleep(0.5)\n"
        "with supervisor.spawn('again') as one: again = one.eval('2')\n"
        "supervisor.close()\n"
        "print(json.dumps([len(open_ones), works, again, text]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=TREE, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    opened, works, again, text = json.loads(done.stdout)
    assert opened > 15
    assert (works, again) == (opened, 2)
    assert "open files" in text
    assert "RLIMIT_NOFILE" in text


def test_a_zygote_that_cannot_fork(supervisor: pyisolate.Supervisor) -> None:
    """EAGAIN: RLIMIT_NPROC of the user that cells run as."""
    drain(supervisor)
    pid = supervisor.diagnostics().zygote_pid
    assert pid is not None
    before = set_limit(pid, resource.RLIMIT_NPROC, 0)
    try:
        end_made_ahead(pid)
        told_within(supervisor, "Resource temporarily unavailable")
    finally:
        set_limit(pid, resource.RLIMIT_NPROC, before)
    works_again(supervisor, pid)


def test_a_zygote_without_descriptors(supervisor: pyisolate.Supervisor) -> None:
    drain(supervisor)
    pid = supervisor.diagnostics().zygote_pid
    assert pid is not None
    used = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    kept = {int(name) for name in leaks.without_namespaces(pid)}
    free = (number for number in itertools.count() if number not in used)
    for spare, first_too_many in enumerate(itertools.islice(free, 7)):  # a cell takes seven for a moment
        if spare == 3:
            continue
        before = set_limit(pid, resource.RLIMIT_NOFILE, first_too_many)
        try:
            told_within(supervisor, "Too many open files")
        finally:
            made = supervisor.diagnostics().pools["own_network"].policy_zygote_pids
            for one in (pid, *made):  # made in the shortage, these inherited it
                set_limit(one, resource.RLIMIT_NOFILE, before)
        works_again(supervisor, pid)
        drain(supervisor)
        deadline = time.monotonic() + 10  # it may be forking a policy zygote, with two of these in its hands
        while (now := {int(name) for name in leaks.without_namespaces(pid)}) != kept:
            assert time.monotonic() < deadline, (now, kept)
            time.sleep(0.01)


def set_limit(pid: int, which: int, soft: int) -> int:
    """Set a soft limit of a process as its own user, who may (prlimit(2)); return what it was."""
    with open(f"/proc/{pid}/status") as status:  # the directory's owner is root while a process is not dumpable
        uid, gid = (int(line.split()[1]) for line in status if line.startswith(("Uid:", "Gid:")))

    def change() -> int:
        before, hard = resource.prlimit(pid, which)
        resource.prlimit(pid, which, (soft, hard))
        return before

    return int(in_child(change, uid=uid, gid=gid) if os.getuid() == 0 else change())


def drain(supervisor: pyisolate.Supervisor) -> None:
    """Leave nothing warm: the pool must ask the zygote."""
    pool = inside.pool(supervisor)
    pool.stock.size = 0
    deadline = time.monotonic() + 10
    while any(inside.pool(supervisor).stock.counts()) and time.monotonic() < deadline:
        if inside.warm_cells(supervisor):
            supervisor.spawn("taken").close()
        time.sleep(0.01)
    assert inside.pool(supervisor).stock.counts() == (0, 0)


def end_made_ahead(zygote: int) -> None:
    """End the init that a zygote has made ahead: it could fork its guest in the shortage."""
    for pid in leaks.below_zygote(zygote).ahead:
        with contextlib.suppress(psutil.NoSuchProcess):  # of a cell that was ending
            one = psutil.Process(pid)
            one.kill()
            one.wait(10)


def told_within(supervisor: pyisolate.Supervisor, words: str, seconds: float = 6.0) -> None:
    started = time.monotonic()
    new = pyisolate.Policy.preset("compute").with_limits(output=next(_BYTES))  # else its own zygote could fork the cell
    with pytest.raises(pyisolate.SandboxError, match=words) as caught:
        supervisor.spawn("refused", new).close()
    assert time.monotonic() - started < seconds
    assert caught.value.hint
    assert supervisor.sandboxes == []


def works_again(supervisor: pyisolate.Supervisor, zygote: int) -> None:
    with supervisor.spawn("again") as sandbox:
        assert sandbox.eval("1") == 1
    assert supervisor.diagnostics().zygote_pid == zygote, "a shortage is no reason to lose the zygote and every cell"


def _empty(group: Path, parent: Path) -> None:
    """Remove a group; what is in it moves up, and what is dying there is waited for."""
    deadline = time.monotonic() + 10
    while group.is_dir():
        try:
            for line in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (parent / "cgroup.procs").write_text(line)
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.fixture
def pids_group() -> Iterator[Path]:
    """A control group of our own that bounds tasks, on v1 or v2."""
    for parent in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = parent / f"pyisolate-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / "pids.max").write_text("max")
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield group
        _empty(group, parent)
        return
    require("cgroup", False, "no control group with pids can be made")


def test_a_zygote_in_a_full_control_group(supervisor: pyisolate.Supervisor, pids_group: Path) -> None:
    drain(supervisor)
    pid = supervisor.diagnostics().zygote_pid
    assert pid is not None
    (pids_group / "cgroup.procs").write_text(str(pid))
    (pids_group / "pids.max").write_text("1")
    end_made_ahead(pid)
    told_within(supervisor, "Resource temporarily unavailable")
    (pids_group / "pids.max").write_text("max")
    works_again(supervisor, pid)


def test_no_more_control_groups_may_be_made(supervisor: pyisolate.Supervisor) -> None:
    """ENOSPC or EAGAIN by cgroup.max.descendants, where the tree has a v2 part."""
    tree = inside.cgroups(supervisor)
    if tree is None or tree.layout.unified is None:
        require("cgroup", False, "no v2 hierarchy")
    assert tree is not None
    limit = Path(tree.layout.unified.parent) / tree.name / "cgroup.max.descendants"
    drain(supervisor)
    deadline = time.monotonic() + 10
    while len(tree._free) < len(tree._all) and time.monotonic() < deadline:  # cells that end hold theirs yet
        tree._drain()
        time.sleep(0.01)
    kept = list(tree._free)
    tree._free.clear()
    limit.write_text(str(len(tree._all)))
    try:
        told_within(supervisor, "prepare cell")
    finally:
        limit.write_text("max")
    tree._free.extend(kept)
    with supervisor.spawn("again") as sandbox:
        assert sandbox.eval("1") == 1
    for parent in tree.layout.parents:
        found = [*Path(parent, tree.name).glob("s*/"), *Path(parent).glob(f"{tree.name}.s*/")]
        made = [one.name.rpartition(".")[2] for one in found]
        assert sorted(made) == sorted(tree._all), "directories of a group that could not be made whole"


NOT_ROOM = (
    "import pyisolate\n"
    "open('/proc/sys/user/max_pid_namespaces', 'w').write('0')\n"
    "try: pyisolate.spawn('none')\n"
    "except pyisolate.SandboxError as error: print(type(error).__name__, error)\n"
)
AS_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()


def test_a_user_namespace_without_room_for_more() -> None:
    """ENOSPC: /proc/sys/user is each user namespace's own, so this one hurts nobody else."""
    require("user_namespaces", shutil.which("unshare") is not None, "needs util-linux's unshare")
    # It keeps its capabilities over the exec to write that file, and drops to nobody: it is no root.
    command = [*AS_USER, "unshare", "--user", "--map-current-user", "--keep-caps", sys.executable, "-c", NOT_ROOM]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=60, check=False)
    if "unshare failed" in done.stderr or "'/proc/sys/user" in done.stderr:
        require("user_namespaces", False, done.stderr.strip())
    assert done.stdout.startswith("EnforcementError"), done.stderr
    assert "namespaces" in done.stdout
    assert "No space left on device" in done.stdout


def test_root_of_a_user_namespace_that_maps_nobody_else() -> None:
    require("user_namespaces", shutil.which("unshare") is not None, "needs util-linux's unshare")
    program = "import pyisolate\ntry: pyisolate.spawn('x')\nexcept pyisolate.SandboxError as error: print(error)"
    command = [*AS_USER, "unshare", "--user", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=60, check=False)
    if "unshare failed" in done.stderr:
        require("user_namespaces", False, done.stderr.strip())
    assert "is not mapped in this user namespace" in done.stdout, done.stderr
    assert "Hint: " in done.stdout


def test_a_guests_own_full_table_is_its_own(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("hoards", limits={"open_files": 32}) as sandbox:
        with pytest.raises(pyisolate.OpenFilesExceeded):
            sandbox.exec("files = []\nwhile True: files.append(open('/dev/null'))")
        assert sandbox.eval("len(files)") > 10
    with supervisor.spawn("spared", limits={"open_files": 32}) as sandbox:
        assert sandbox.eval("1") == 1


@pytest.mark.parametrize(
    "limits",
    [{"open_files": 4}, {"memory": "1MiB"}, {"processes": 1}, {"cpu": "1ms"}, {"output": "1B"}, {"wall": "1ms"}],
)
def test_limits_that_leave_no_room_at_all(supervisor: pyisolate.Supervisor, limits: dict[str, Any]) -> None:
    """It may not even start; it says why, and the next one is not affected."""
    started, told = time.monotonic(), ""
    try:
        with supervisor.spawn("cramped", limits=limits) as sandbox:
            sandbox.exec("print([0] * 100_000)")
    except pyisolate.SandboxError as error:
        told = str(error)
    assert "Traceback" not in told
    assert time.monotonic() - started < 10
    with supervisor.spawn("roomy") as sandbox:
        assert sandbox.eval("1") == 1


@pytest.fixture
def full_disk(data: Path) -> Iterator[Path]:
    """A file system of 64 KiB that is all but full."""
    options = ["-t", "tmpfs", "-o", "size=64k,mode=777", "none", str(data)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
    require("root", mounted.returncode == 0, "cannot mount a tmpfs")
    try:
        (data / "filler").write_bytes(b"x" * (60 << 10))
        yield data
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_a_full_disk_is_the_guests_error(full_disk: Path) -> None:
    """ENOSPC: an OSError in the guest, not a limit, not a denial."""
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        policy = Policy.preset("compute").allow_write(str(full_disk))
        with supervisor.spawn("writes", policy) as sandbox:
            with pytest.raises(pyisolate.GuestError) as caught:
                sandbox.exec(f"open({str(full_disk / 'f')!r}, 'wb').write(b'x' * 1_000_000)")
            assert "No space left" in caught.value.message
            assert sandbox.get_denial_events() == []


REFUSED = "for n in range({count}):\n    try: open(f'/etc/{{n}}')\n    except PermissionError: pass"


def test_an_audit_log_on_a_full_disk_masks_nothing_and_catches_up(full_disk: Path) -> None:
    """ENOSPC: refusals stay refused and counted; what was not written is written once there is room."""
    log = full_disk / "audit.jsonl"
    metrics = Metrics()
    recorder = Recorder(metrics=metrics, audit=AuditLog(log, metrics=metrics), sinks=[], alerts=None)
    with pyisolate.Supervisor(pool_size=0, recorder=recorder) as supervisor, supervisor.spawn("audited") as sandbox:
        sandbox.exec(REFUSED.format(count=40))
        assert sandbox.stats.denials == 40
        assert metrics.audit_errors.total() > 0
        written = sum(event.count for event in read_events(log))
        assert written < 40
        (full_disk / "filler").unlink()
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('/etc/shadow')")
        assert sum(event.count for event in read_events(log)) == 41
    recorder.shutdown()
    assert metrics.denials.total() == 41
    assert metrics.lost.value("audit") == 0


def test_an_audit_log_on_a_disk_that_stays_full_counts_what_it_loses(full_disk: Path) -> None:
    log, metrics = full_disk / "audit.jsonl", Metrics()
    audit = AuditLog(log, metrics=metrics)
    recorder = Recorder(metrics=metrics, audit=audit, sinks=[], alerts=None, rate=1e9, burst=10**9)
    with pyisolate.Supervisor(pool_size=0, recorder=recorder) as supervisor, supervisor.spawn("audited") as sandbox:
        sandbox.exec(REFUSED.format(count=1500))
        assert sandbox.stats.denials == 1500
    recorder.shutdown()
    written = sum(event.count for event in read_events(log))
    assert metrics.denials.total() == 1500
    assert written + metrics.lost.value("audit") == 1500


def test_a_supervisor_needs_no_temporary_files(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (full_disk / "more").write_bytes(b"")
    with contextlib.suppress(OSError):
        (full_disk / "more").write_bytes(b"x" * (8 << 10))
    monkeypatch.setenv("TMPDIR", str(full_disk))
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn("no room") as sandbox:
        assert sandbox.eval("1") == 1
