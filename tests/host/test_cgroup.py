"""Control groups on this kernel: bombs end within a second, nothing escapes, nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.errors import EnforcementError
from pyisolate.limits.cgroup import CgroupLease, CgroupTree
from pyisolate.limits.sweep import MARK, sweep
from pyisolate.limits.usage import TreeReader
from pyisolate.policy.compiled import Limits
from tests.require import require
from tests.waiting import until

pytestmark = pytest.mark.alone  # measures time

MIB = 1 << 20
GONE_WITHIN_S = 1.0

#: Waits for one line, so that it can be moved into its group before it does anything.
GATE = "import sys; sys.stdin.readline()\n"


@contextlib.contextmanager
def guest(lease: CgroupLease, source: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python in the group; end it afterwards whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GATE + source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lease.add(process.pid)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        yield process
    finally:
        lease.kill()
        process.kill()
        process.communicate()


def left_of(name: str, tree: CgroupTree) -> list[Path]:
    """Return what a supervisor's tree has, its sandboxes' groups beside it included."""
    return [path for parent in tree.layout.parents for path in Path(parent).glob(f"{name}*")]


def directories(tree: CgroupTree) -> list[Path]:
    return [Path(parent, tree.name) for parent in tree.layout.parents]


def dead(pid: int) -> bool:
    """Gone, or a zombie that its new parent has yet to reap: whoever is process 1 takes its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def test_opening_proves_that_a_fork_is_refused() -> None:
    made, availability = CgroupTree.open()
    require("cgroup", made is not None, availability.reason)
    assert made is not None
    with made:
        assert availability.usable
        assert "refused" in availability.proof


def test_a_memory_bomb_is_killed_at_the_limit(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits(memory_bytes=48 * MIB))
    with guest(lease, f"b = bytearray({256 * MIB}); print('survived', flush=True)") as process:
        assert process.wait(20) == -signal.SIGKILL
        usage = lease.usage()
        assert usage.oom_kills >= 1
        assert 40 * MIB < usage.memory_peak_bytes <= 48 * MIB
    lease.release()


def test_the_same_memory_is_granted_by_a_larger_limit(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits(memory_bytes=400 * MIB))
    with guest(lease, f"b = bytearray({256 * MIB}); print('survived', flush=True)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "survived\n"
        assert process.wait(20) == 0
        assert lease.oom_kills() == 0
    lease.release()


def test_memory_is_summed_over_processes(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits(memory_bytes=96 * MIB, processes=16))
    source = f"""
import os, time
for _ in range(4):
    if os.fork() == 0:
        b = bytearray({40 * MIB}); time.sleep(60)
time.sleep(60)
"""
    with guest(lease, source):
        until(lambda: lease.oom_kills() > 0, within_s=20)
    assert lease.wait_empty()
    lease.release()


def test_a_fork_bomb_is_bounded_counted_and_gone_within_a_second(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits(processes=12, memory_bytes=256 * MIB))
    source = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    with guest(lease, source):
        until(lambda: lease.pids_refused() > 0, within_s=10)
        assert lease.usage().processes <= 12
        started = time.monotonic()
        lease.kill()
        assert lease.wait_empty(GONE_WITHIN_S)
        assert time.monotonic() - started < GONE_WITHIN_S
    lease.release()


def test_as_many_processes_as_the_limit_allows_are_not_refused(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits(processes=4, memory_bytes=256 * MIB))
    source = """
import os
for _ in range(3):
    if os.fork() == 0: os.read(0, 1); os._exit(0)
print('started', flush=True)
os.read(0, 1)
"""
    with guest(lease, source) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert lease.usage().processes == 4
        assert lease.pids_refused() == 0
    lease.release()


@pytest.mark.parametrize("with_cgroup_kill", [True, False])
def test_an_orphan_in_its_own_session_does_not_escape(tree: CgroupTree, with_cgroup_kill: bool) -> None:
    lease = tree.lease()
    if not with_cgroup_kill:
        lease._controls.unified = None
    lease.apply(Limits())
    source = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0); print(os.getpid(), flush=True); time.sleep(60)
    os._exit(0)
os.wait(); os._exit(0)
"""
    with guest(lease, source) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        assert process.wait(10) == 0
        assert orphan in lease.pids()
        lease.kill()
        assert lease.wait_empty(GONE_WITHIN_S)
        until(lambda: dead(orphan), within_s=GONE_WITHIN_S)
    lease.release()


def test_a_fork_bomb_does_not_outrun_the_fallback_without_cgroup_kill(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease._controls.unified = None
    lease.apply(Limits(processes=30))
    with guest(lease, "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n"):
        until(lambda: lease.usage().processes > 20, within_s=10)
        lease.kill()
        assert lease.wait_empty(GONE_WITHIN_S)
    lease.release()


def test_processor_time_counts_children_that_were_never_waited_for(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits())
    source = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    os._exit(0)
while True:
    try: os.waitpid(-1, 0)
    except ChildProcessError: break
print('done', flush=True)
"""
    with guest(lease, source) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        assert lease.cpu_s() >= 0.29
    lease.release()


def test_a_reused_group_starts_from_nothing(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits(memory_bytes=48 * MIB, processes=1))
    with guest(lease, f"import os\ntry: os.fork()\nexcept OSError: pass\nb = bytearray({256 * MIB})") as process:
        process.wait(20)
    assert lease.wait_empty()
    assert lease.oom_kills()
    assert lease.pids_refused()
    name = lease.name
    lease.release()
    again = [tree.lease() for _ in range(len(tree._free))]
    lease = next(one for one in again if one.name == name)
    usage = lease.usage()
    assert (usage.oom_kills, usage.pids_refused, usage.processes) == (0, 0, 0)
    assert usage.cpu_s < 0.01
    assert usage.memory_peak_bytes < 8 * MIB
    lease.apply(Limits(memory_bytes=400 * MIB, processes=8))
    with guest(lease, f"import os\nb = bytearray({200 * MIB})\nif os.fork() == 0: os._exit(0)\nos.wait()") as process:
        assert process.wait(20) == 0
    assert lease.wait_empty()
    assert lease.last_cpu_s() > 0.01  # the reading that the next sandbox's starts from
    lease.release()
    again = [tree.lease() for _ in range(len(tree._free))]
    assert next(one for one in again if one.name == name).cpu_s() < 0.01


def test_a_group_with_memory_that_stays_is_not_given_on(tree: CgroupTree) -> None:
    """As files in a tmpfs do: who wrote them has ended, and nothing can be reclaimed."""
    lease = tree.lease()
    lease.apply(Limits(memory_bytes=128 * MIB))
    kept = os.memfd_create("stays")
    try:
        source = f"import os\nfd = os.open('/proc/{os.getpid()}/fd/{kept}', os.O_WRONLY)\n"
        with guest(lease, source + f"for _ in range(24): os.write(fd, bytes({MIB}))") as process:
            assert process.wait(20) == 0
        assert lease.wait_empty()
        assert os.fstat(kept).st_size == 24 * MIB
        assert lease.memory_bytes() > 20 * MIB, "it was charged to the group"
        places = list(lease._controls.directories)
        before = tree.size
        lease.release()
        until(lambda: tree._drain() or not tree._draining)
        assert not any(os.path.exists(place) for place in places)
        assert tree.size == before - 1
        again = [tree.lease() for _ in range(before)]
        assert lease not in again
        assert all(one.memory_bytes() < 8 * MIB for one in again)
    finally:
        os.close(kept)


def test_a_group_that_could_not_be_removed_yet_waits_for_it(tree: CgroupTree) -> None:
    lease = tree.lease()
    below = Path(lease._controls.directories[0], "below")
    below.mkdir()
    lease._spoilt = True
    try:
        lease.release()
        assert lease not in tree._free
        assert lease in tree._draining
    finally:
        below.rmdir()
    tree._drain()
    assert lease not in tree._draining
    assert not any(os.path.exists(place) for place in lease._controls.directories)


def test_a_group_is_not_reused_while_a_zombie_is_charged_to_it(tree: CgroupTree) -> None:
    lease = tree.lease()
    process = subprocess.Popen(["/bin/sleep", "60"])
    lease.add(process.pid)
    lease.release()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease not in tree._free
    process.wait()
    tree._drain()
    assert lease in tree._free


def test_a_zombie_is_no_process_in_use(tree: CgroupTree) -> None:
    lease = tree.lease()
    lease.apply(Limits())
    with guest(
        lease,
        "import os\nif os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n"
        "print('zombie', flush=True); sys.stdin.readline()",
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "zombie\n"
        assert lease.usage().processes == 1
        assert TreeReader(process.pid).read().processes == 1
    lease.release()


def test_adding_a_process_that_is_gone_says_so(tree: CgroupTree) -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    with pytest.raises(ProcessLookupError):
        tree.lease().add(process.pid)


def test_limits_change_in_both_directions_while_in_use(tree: CgroupTree) -> None:
    lease = tree.lease()
    for memory in (64 * MIB, 256 * MIB, 32 * MIB, None, 128 * MIB):
        lease.apply(Limits(memory_bytes=memory))
    with guest(lease, f"b = bytearray({64 * MIB}); print('up', flush=True); sys.stdin.readline()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        lease.apply(Limits(memory_bytes=200 * MIB))
        if tree.layout.memory is not None and tree.layout.memory.version == 1:
            # v1 refuses what the group already exceeds; v2 would end processes at once.
            with pytest.raises(EnforcementError, match="Hint"):
                lease.apply(Limits(memory_bytes=8 * MIB))
            assert process.poll() is None


def test_closing_removes_every_directory_and_process(tree: CgroupTree) -> None:
    tree.prefill(3)
    lease = tree.lease()
    process = subprocess.Popen(["/bin/sleep", "60"])
    lease.add(process.pid)
    assert all(path.exists() for path in directories(tree))
    assert tree.close()
    assert process.wait(5) == -signal.SIGKILL
    assert not left_of(tree.name, tree)
    with pytest.raises(RuntimeError, match="closed"):
        tree.lease()
    lease.release()


DIES = """
import os, subprocess, sys
from pyisolate.limits.cgroup import CgroupTree
tree, _ = CgroupTree.open()
process = subprocess.Popen(["/bin/sleep", "60"], stdout=subprocess.DEVNULL)
tree.lease().add(process.pid)
print(tree.name, process.pid, flush=True)
{end}
"""


def run_supervisor(end: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DIES.format(end=end)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_the_tree_of_a_dead_supervisor_is_swept_with_what_runs_in_it(tree: CgroupTree) -> None:
    with run_supervisor("os.kill(os.getpid(), 9)") as supervisor:
        assert supervisor.stdout is not None
        name, left_over = supervisor.stdout.read().split()
    assert Path(tree.layout.parents[0], name).exists()
    removed = sweep()
    assert {Path(path).name for path in removed} >= {name}
    assert not left_of(name, tree)
    until(lambda: dead(int(left_over)), within_s=GONE_WITHIN_S)


def test_what_a_dead_supervisor_had_below_another_service_is_swept_too(tree: CgroupTree) -> None:
    require("cgroup_v1", tree.layout.unified is not tree.layout.memory, "v2 has one hierarchy, so one directory")
    with run_supervisor("os.kill(os.getpid(), 9)") as supervisor:
        assert supervisor.stdout is not None
        name, _ = supervisor.stdout.read().split()
    assert tree.layout.pids is not None
    # As if the supervisor had run in a service's group: elsewhere in one hierarchy than in the others.
    elsewhere = Path(tree.layout.pids.parent, f"service-{os.getpid()}")
    below = elsewhere / name
    below.mkdir(parents=True)
    try:
        os.setxattr(below, MARK, name.encode())
        sweep()
        assert not below.exists()
    finally:
        elsewhere.rmdir()


def test_a_group_of_many_has_no_more_of_a_processor_than_a_group_of_one(tree: CgroupTree) -> None:
    require("cgroup_cpu", tree.weights.given, "no cpu controller here")
    spin = f"import os\nos.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\nfor _ in range(%d): os.fork()\n"
    spin += "while True: pass"
    many, one = tree.lease(), tree.lease()
    many.apply(Limits(processes=8))
    with guest(many, spin % 3), guest(one, spin % 0):
        until(lambda: many.usage().processes == 8 and one.cpu_s() > 0.1, within_s=120)
        before = many.cpu_s(), one.cpu_s()
        until(lambda: many.cpu_s() + one.cpu_s() - sum(before) > 0.3, within_s=120)
        used = many.cpu_s() - before[0], one.cpu_s() - before[1]
        assert many.usage().processes == 8
    assert used[1] > 0.3 * sum(used), used  # eight processes beside one: a ninth, where each process counts


def test_a_sandbox_weighs_a_quarter_of_the_host_beside_which_its_group_lies(tree: CgroupTree) -> None:
    """All requests go through the host, and a group in a group waits for what its siblings had."""
    lease = tree.lease()
    place, group = tree.layout.weight, tree.weights.directory_of(lease.name)
    v1 = group is not None and place is not None and place.version == 1
    require("cgroup_v1", v1, "on v2 the weight is a part of the tree's")
    assert place is not None
    assert group is not None
    assert os.path.dirname(group) == place.parent
    assert 4 * int(Path(group, "cpu.shares").read_text()) == 1024  # of any process outside (sched-design-CFS.rst)
    lease.release()


@pytest.mark.parametrize("called", ["pyisolate.service", "pyisolate.1.0", "pyisolate.slice.d"])
def test_groups_that_bear_no_mark_of_ours_are_left_alone(tree: CgroupTree, called: str) -> None:
    assert tree.layout.pids is not None
    theirs = Path(tree.layout.pids.parent, called)
    theirs.mkdir()
    process = subprocess.Popen(["sleep", "60"])
    try:
        (theirs / "cgroup.procs").write_text(str(process.pid))
        assert str(theirs) not in sweep()
        os.setxattr(theirs, MARK, b"pyisolate.2.0")  # as if it had been renamed, or copied with its attributes
        assert str(theirs) not in sweep()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        until(lambda: not (theirs / "cgroup.procs").read_text(), within_s=GONE_WITHIN_S)
        theirs.rmdir()


def test_the_trees_of_living_supervisors_are_left_alone(tree: CgroupTree) -> None:
    with run_supervisor("sys.stdin.read(); tree.close(); process.wait()") as alive:
        assert alive.stdout is not None
        name, member = alive.stdout.readline().split()
        swept = {Path(path).name for path in sweep()}
        assert name not in swept
        assert tree.name not in swept
        assert Path(f"/proc/{member}").exists()
        alive.communicate()
    assert not Path(tree.layout.parents[0], name).exists()


def test_a_forked_copy_of_the_host_cannot_remove_its_parents_groups(tree: CgroupTree) -> None:
    tree.prefill(1)
    pid = os.fork()
    if pid == 0:
        try:
            tree.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert all(path.exists() for path in directories(tree))
    assert tree.lease().usage().processes == 0


def test_the_v2_descriptor_is_the_v2_directory(tree: CgroupTree) -> None:
    lease = tree.lease()
    require("cgroup", lease.v2_fd is not None, "no v2 hierarchy is mounted")
    assert lease.v2_path is not None
    assert lease.v2_fd is not None
    assert os.readlink(f"/proc/self/fd/{lease.v2_fd}") == lease.v2_path


def test_a_host_without_rights_is_told_why_and_what_to_do() -> None:
    # The uid changes after the import: an ordinary user may not be able to read this tree.
    source = """
import os
from pyisolate.limits.cgroup import CgroupTree
if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(CgroupTree.open())
"""
    answer = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    if "AVAILABLE: 'available'" in answer:
        pytest.skip("control groups are delegated to ordinary users here")
    assert answer.startswith("(None, ")
    assert "not writable" in answer or "not delegated" in answer
    assert "Delegate=yes" in answer


@pytest.mark.soak
def test_groups_are_reused_and_do_not_pile_up(tree: CgroupTree, soak_seconds: float) -> None:
    ends, sandboxes = time.monotonic() + soak_seconds, 0
    while time.monotonic() < ends:
        lease = tree.lease()
        lease.apply(Limits(memory_bytes=(64 + sandboxes % 64) * MIB, processes=4 + sandboxes % 4))
        process = subprocess.Popen(["/bin/sleep", "60"])
        lease.add(process.pid)
        lease.kill()
        process.wait()
        lease.release()
        sandboxes += 1
    groups = sum(entry.is_dir() for entry in directories(tree)[0].iterdir())
    assert groups < 10, f"{groups} groups after {sandboxes} sandboxes"
