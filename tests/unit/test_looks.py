"""Looks that wait for no server: here memory stands for one, whose types alone are given."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyisolate.kernel.bpf import cgroup
from pyisolate.kernel.identity import MountTable
from pyisolate.limits import hierarchy
from pyisolate.native import looks, mount, mount_table
from tests.require import require


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A directory on a disk, and one on a server."""
    if not looks_like_memory("/dev/shm"):
        pytest.skip("/dev/shm is no file system of its own here")
    monkeypatch.setattr(looks, "_SERVERS", frozenset(("tmpfs",)))
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as here,
        tempfile.TemporaryDirectory(dir="/dev/shm") as there,
    ):
        yield Path(os.path.realpath(here)), Path(there)


def looks_like_memory(path: str) -> bool:
    with open("/proc/self/mountinfo") as mounts:
        return any(f" {path} " in line and " - tmpfs " in line for line in mounts)


@pytest.mark.parametrize("kind", ["9p", "virtiofs", "fuse.sshfs", "nfs4"])
def test_what_a_server_serves_is_known_by_its_type(tmp_path: Path, kind: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 0:1 / / rw - ext4 disk rw\n2 1 0:2 / /far rw - {kind} host rw\n3 1 0:3 / /near rw - tmpfs x rw\n"
    )
    file = os.open(table, os.O_RDONLY)
    try:
        assert looks._read(file) == {"/": False, "/far": True, "/near": False}
    finally:
        os.close(file)


LOOKS: list[Callable[[str], object]] = [looks.lstat, looks.stat, looks.readlink]


def test_names_on_a_server_are_not_looked_at_by_whatever_way_they_are_reached(beside: tuple[Path, Path]) -> None:
    here, there = beside
    (there / "file").touch()
    (there / "link").symlink_to(here)
    (here / "leads").symlink_to(there)
    (here / "far").symlink_to(f"../../dev/shm/{there.name}/file" if here.parts[1] == "var" else there / "file")
    for name in (
        there / "file",
        there / "link",
        here / "leads" / "file",
        there / "absent",
        here / "leads" / ".." / "x",
    ):
        for look in LOOKS:
            with pytest.raises(BlockingIOError) as raised:
                look(str(name))
            assert raised.value.errno == errno.EAGAIN
    for name in (here / "leads", here / "far"):
        assert looks.is_link(str(name))
        assert looks.readlink(str(name)) == os.readlink(name)
        assert not looks.is_file(str(name))
        assert not looks.is_directory(str(name))


def test_other_names_are_looked_at_as_ever(beside: tuple[Path, Path]) -> None:
    here, _ = beside
    (here / "file").write_text("text")
    (here / "link").symlink_to("file")
    (here / "round").symlink_to("round")
    (here / "folder").mkdir()
    assert looks.is_file(f"{here}/folder/../link")
    assert looks.is_directory(f"{here}//folder/.")
    assert looks.stat(f"{here}/link").st_size == 4
    assert looks.is_link(f"{here}/link")
    assert looks.readlink(f"{here}/link") == "file"
    with looks.opened(f"{here}/file", os.O_RDONLY) as file:
        assert os.read(file, 9) == b"text"
    for name, number in (("absent", errno.ENOENT), ("round", errno.ELOOP), ("file/x", errno.ENOTDIR)):
        with pytest.raises(OSError) as raised:
            looks.stat(f"{here}/{name}")
        assert raised.value.errno == number


def test_the_table_of_mounts_is_closed_with_its_last_keeper() -> None:
    before = len(os.listdir("/proc/self/fd"))
    looks.keep(looks)
    try:
        looks.asks_server("/")
        assert len(os.listdir("/proc/self/fd")) == before + 1
    finally:
        looks.let_go(looks)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not looks.asks_server("/")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["back\\slash", "new\nline", "carriage\rreturn", "sp ace", "tab\t", "\udc85\x1c"])
def test_whoever_mounts_chooses_names_and_hides_no_server_by_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require("mount", os.geteuid() == 0, "as root only")
    monkeypatch.setattr(looks, "_SERVERS", frozenset(("ramfs",)))
    with tempfile.TemporaryDirectory(dir=os.path.realpath("/var/tmp")) as above:
        place = os.path.join(above, name)
        os.mkdir(place)
        mount.mount(name, place, "ramfs")
        try:
            assert looks.asks_server(f"{place}/x")
            with pytest.raises(BlockingIOError):
                looks.has_attribute(place, "user.x")
            assert place in {one.point for one in mount_table.read_at("/proc/self/mountinfo")}
            table = MountTable()
            table.refresh()
            assert b"ramfs" in table.file_systems().values()
            assert table.below(frozenset((above,)))
            table.close()
            hierarchy.detect()
            cgroup.unified()
        finally:
            mount.umount2(place)
