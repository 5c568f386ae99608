"""Groups that lie beside their tree (v1) are swept, whatever became of the tree and of who made them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pyisolate.limits.cgroup import CgroupTree
from pyisolate.limits.sweep import MARK, sweep
from tests.host.test_cgroup import GONE_WITHIN_S, left_of, run_supervisor
from tests.require import require
from tests.waiting import until

pytestmark = pytest.mark.alone  # others sweep, too


def beside(tree: CgroupTree) -> str:
    """Return where groups lie beside their tree."""
    place = tree.layout.weight
    require("cgroup_v1", tree.weights.given and place is not None and place.version == 1, "on v2 all are in the tree")
    assert place is not None
    return place.parent


def test_groups_beside_a_tree_that_could_not_be_emptied_are_swept(
    tree: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, lease = beside(tree), tree.lease()
    with monkeypatch.context() as patched:
        patched.setattr(lease, "_remove", lambda: False)
        assert not tree.close(timeout_s=0)
    assert Path(parent, f"{tree.name}.{lease.name}").exists()
    assert f"{parent}/{tree.name}" in sweep()
    assert not left_of(tree.name, tree)


def test_what_was_killed_before_its_mark_is_swept_with_its_tree(tree: CgroupTree) -> None:
    parent = beside(tree)
    with run_supervisor("os.kill(os.getpid(), 9)") as supervisor:
        assert supervisor.stdout is not None
        name, _ = supervisor.stdout.read().split()
    Path(parent, f"{name}.s7").mkdir()
    sweep()
    assert not left_of(name, tree)


@pytest.mark.parametrize("marked", [True, False])
def test_groups_whose_tree_is_gone_are_swept_where_they_bear_its_mark(tree: CgroupTree, marked: bool) -> None:
    parent, name = beside(tree), f"pyisolate.{os.getpid()}.999"
    left = Path(parent, f"{name}.s0")
    left.mkdir()
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        (left / "cgroup.procs").write_text(str(process.pid))
        if marked:
            os.setxattr(left, MARK, name.encode())
        assert (f"{parent}/{name}" in sweep()) == marked
        assert (process.poll() is None) == (not marked)
        assert left.exists() == (not marked)
    finally:
        process.kill()
        process.wait()
        if not marked:
            until(lambda: not (left / "cgroup.procs").read_text(), within_s=GONE_WITHIN_S)
            left.rmdir()
