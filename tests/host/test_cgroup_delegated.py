"""An ordinary user with a delegated v2 subtree, as systemd gives it by Delegate=yes, gets control groups too."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.require import require

ORDINARY = 65534
TOP = Path("/sys/fs/cgroup")

#: Imports first: an ordinary user may not be able to read this tree.
HOST = """
import os, subprocess, sys
from pathlib import Path
from pyisolate.limits.cgroup import CgroupTree
from pyisolate.policy.compiled import Limits
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
before = Path("/proc/self/cgroup").read_text()
tree, availability = CgroupTree.open()
assert tree is not None, availability
print(availability.proof)
# A second supervisor of the same process must not take the first one's leaf for a dead tree.
second, _ = CgroupTree.open()
assert second.close()
lease = tree.lease()
lease.apply(Limits(memory_bytes=48 << 20, processes=4))
bomb = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input(); b = bytearray(256 << 20)"], stdin=subprocess.PIPE)
lease.add(bomb.pid)
bomb.communicate(b"\\n")
print(bomb.returncode, lease.oom_kills())
lease.release()
print(tree.close(), Path("/proc/self/cgroup").read_text() == before)
print(sorted(path.name for path in Path(sys.argv[1]).iterdir() if path.is_dir()))
print(repr(Path(sys.argv[1], "cgroup.subtree_control").read_text().strip()))
"""


def v2_with_controllers() -> bool:
    with contextlib.suppress(OSError):
        return {"memory", "pids"} <= set((TOP / "cgroup.controllers").read_text().split())
    return False


@pytest.fixture
def delegated() -> Iterator[Path]:
    require("cgroup_v2", v2_with_controllers(), "no v2 hierarchy with memory and pids at /sys/fs/cgroup")
    require("root", os.geteuid() == 0, "only root can delegate a group")
    enabled = (TOP / "cgroup.subtree_control").read_text()
    (TOP / "cgroup.subtree_control").write_text("+memory +pids")
    group = TOP / f"delegated-{os.getpid()}"
    group.mkdir()
    # What systemd hands over (cgroup-v2.rst, "Model of Delegation").
    for path in (group, *(group / name for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
        os.chown(path, ORDINARY, ORDINARY)
    yield group
    group.rmdir()
    if not {"memory", "pids"} & set(enabled.split()):
        (TOP / "cgroup.subtree_control").write_text("-memory -pids")


def test_limits_hold_and_the_subtree_is_left_as_it_was_found(delegated: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", HOST, str(delegated)], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    proof, bomb, closed, left, enabled = answer.stdout.splitlines()
    assert "refused" in proof
    # memory.oom.group counts the group's end as well.
    assert bomb in ("-9 1", "-9 2")
    assert closed == "True True"
    assert left == "[]"
    assert enabled == "''"


TWO = """
import os, sys
from pathlib import Path
from pyisolate.limits.cgroup import CgroupTree
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
first, second = CgroupTree.open()[0], CgroupTree.open()[0]
first.close()
# The first could not leave its leaf: the second still needs the controllers.
third = CgroupTree.open()[0]
third.close()
second.close()
print("alive")
"""


def test_a_supervisor_that_has_to_stay_in_its_leaf_is_not_swept(delegated: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", TWO, str(delegated)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (answer.returncode, answer.stdout) == (0, "alive\n"), answer.stderr
    for leaf in delegated.glob("pyisolate.*"):
        leaf.rmdir()
    (delegated / "cgroup.subtree_control").write_text("-memory -pids")
