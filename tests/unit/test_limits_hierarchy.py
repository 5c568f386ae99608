"""Where control groups can be made, for each way that hosts arrange them. Control files are plain files here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyisolate.limits import hierarchy
from pyisolate.limits.hierarchy import Layout

V1 = ("memory", "pids", "cpuacct")


class Host:
    """A made-up host: mounts, membership and control files below one folder."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.mounts: list[str] = []
        self.membership: list[str] = []

    def v1(self, controller: str, own: str = "/") -> None:
        where = self.top / controller
        self.group(where / own.lstrip("/"))
        self.mounts.append(f"30 20 0:26 / {where} rw - cgroup cgroup rw,{controller}")
        self.membership.append(f"4:{controller}:{own}")

    def v2(self, own: str = "/", root: str = "/") -> Path:
        where = self.top / "unified"
        self.mounts.append(f"31 20 0:27 {root} {where} rw - cgroup2 cgroup2 rw,nsdelegate")
        self.membership.append(f"0::{own}")
        return where

    @staticmethod
    def group(
        directory: Path, controllers: str = "", enabled: str = "", procs: str = "", real_root: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(procs)
        (directory / "cgroup.controllers").write_text(controllers)
        (directory / "cgroup.subtree_control").write_text(enabled)
        if not real_root:
            (directory / "cgroup.type").write_text("domain\n")

    def detect(self) -> Layout:
        (self.top / "mountinfo").write_text("\n".join(self.mounts) + "\n")
        (self.top / "cgroup").write_text("\n".join(self.membership) + "\n")
        return hierarchy.detect(str(self.top))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that cannot be written: root ignores file modes, so the question itself is answered here."""
    refused: set[str] = set()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and str(path) not in refused)
    return refused


def test_a_host_without_control_groups_is_told_to_mount_them(host: Host) -> None:
    layout = host.detect()
    assert not layout.usable
    assert "mount" in layout.remedy


def test_v1_alone_serves_with_processor_time_from_cpuacct(host: Host) -> None:
    for controller in V1:
        host.v1(controller, "/job")
    layout = host.detect()
    assert layout.usable
    assert layout.unified is None
    assert layout.summary == "memory v1, pids v1, cpu v1"
    assert len(layout.parents) == 3


def test_the_mix_takes_kill_and_processor_time_from_v2(host: Host) -> None:
    for controller in V1:
        host.v1(controller)
    host.group(host.v2(), controllers="hugetlb", real_root=True)
    layout = host.detect()
    assert layout.summary == "memory v1, pids v1, cpu v2, kill v2"
    assert not any("cpuacct" in parent for parent in layout.parents)


def test_v2_takes_the_nearest_group_with_controllers_enabled(host: Host) -> None:
    top = host.v2("/user.slice/app.scope")
    host.group(top, "cpu memory pids", "cpu memory pids", real_root=True)
    host.group(top / "user.slice", "memory pids", "memory pids")
    host.group(top / "user.slice/app.scope", "memory pids", "", procs="1\n2\n")
    layout = host.detect()
    assert layout.usable
    assert layout.parents == (str(top / "user.slice"),)
    assert layout.memory is not None
    assert not layout.memory.enable


def test_an_ancestor_that_is_not_ours_to_write_is_passed_over(host: Host, unwritable: set[str]) -> None:
    top = host.v2("/user.slice/app.scope")
    host.group(top, "memory pids", "memory pids", real_root=True)
    host.group(top / "user.slice", "memory pids", "memory pids")
    host.group(top / "user.slice/app.scope", "memory pids", "", procs="1\n2\n")
    unwritable |= {str(top), str(top / "user.slice"), str(top / "user.slice/app.scope")}
    layout = host.detect()
    assert not layout.usable
    assert "not delegated" in layout.reason


def test_the_real_root_enables_controllers_beside_its_processes(host: Host) -> None:
    top = host.v2("/")
    host.group(top, "memory pids", "", procs="1\n2\n", real_root=True)
    layout = host.detect()
    assert layout.memory is not None
    assert (layout.memory.enable, layout.memory.vacate) == (True, False)


def test_a_delegated_group_of_our_own_is_vacated(host: Host) -> None:
    top = host.v2("/run.scope")
    host.group(top, "memory pids", "", real_root=True)
    host.group(top / "run.scope", "memory pids", "", procs=f"{os.getpid()}\n")
    layout = host.detect()
    assert layout.memory is not None
    assert (layout.memory.enable, layout.memory.vacate) == (True, True)


def test_a_group_that_others_live_in_is_not_taken_over(host: Host) -> None:
    top = host.v2("/run.scope")
    host.group(top, "memory pids", "", real_root=True)
    host.group(top / "run.scope", "memory pids", "", procs=f"{os.getpid()}\n1\n")
    layout = host.detect()
    assert not layout.usable
    assert "holds other processes" in layout.reason


def test_a_mount_of_a_subtree_is_understood(host: Host) -> None:
    top = host.v2("/docker/abc/job", root="/docker/abc")
    host.group(top, "memory pids", "memory pids")
    host.group(top / "job", "memory pids", "")
    layout = host.detect()
    assert layout.parents == (str(top),)


def test_one_missing_controller_is_all_missing(host: Host, unwritable: set[str]) -> None:
    for controller in V1:
        host.v1(controller)
    unwritable.add(str(host.top / "pids"))
    layout = host.detect()
    assert not layout.usable
    assert "pids is not writable" in layout.reason
