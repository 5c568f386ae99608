"""Directories speak for the names in them: whatever comes to stand at a granted path is seen, with fewer looks."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyisolate.kernel import directories
from pyisolate.kernel.identity import Identity, MountTable
from pyisolate.native import watch
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule
from tests.require import require

#: Longer than a step of the kernel's clock (10 ms with CONFIG_HZ=100), short for a test.
REST_S = 0.05
GRANTED = ("work", "work/f", "work/g", "link", "to-file", "deep/way/f", "missing", "gone/f")


@pytest.fixture(params=["/var/tmp", "/dev/shm"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    if not os.access(request.param, os.W_OK):
        pytest.skip(f"{request.param} cannot be written to")
    made = Path(tempfile.mkdtemp(dir=request.param))
    for name in ("work/f", "work/g", "other/f", "deep/way/f", "elsewhere/way/f"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / "link").symlink_to("work")
    (made / "to-file").symlink_to(made / "link/../other/f")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def mounts() -> Iterator[MountTable]:
    table = MountTable()
    yield table
    table.close()


def identity_of(place: Path, mounts: MountTable) -> Identity:
    rules = tuple(FsRule(path=str(place / name), allow=int(FsRight.READ), text=name) for name in GRANTED)
    return Identity(CompiledPolicy(name="t", version="t", fs=rules), mounts)


def at_rest(place: Path, mounts: MountTable, monkeypatch: pytest.MonkeyPatch) -> Identity:
    monkeypatch.setattr(directories, "AT_REST_S", REST_S)
    until = time.monotonic() + 60
    while True:
        time.sleep(2 * REST_S)
        identity = identity_of(place, mounts)
        assert identity.holds()
        if identity._watched is None or not identity._watched[0].restless:
            return identity
        assert time.monotonic() < until, "other processes make and remove files in /var/tmp all the time"


def replace(place: Path, name: str) -> None:
    (place / "new").write_text("new")
    os.replace(place / "new", place / name)


def replace_directory(place: Path) -> None:
    (place / "deep/way").rename(place / "deep/old")
    (place / "elsewhere/way").rename(place / "deep/way")


def replace_parent(place: Path) -> None:
    (place / "deep").rename(place / "old")
    (place / "elsewhere").rename(place / "deep")


def exchange_and_back_date(place: Path) -> None:
    """The time of the last change of contents can be set back; that of the last change of the inode cannot."""
    before = os.stat(place / "work")
    replace(place, "work/f")
    os.utime(place / "work", ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_link(place: Path) -> None:
    (place / "link").unlink()
    (place / "link").symlink_to("other")


def link_on_the_way(place: Path) -> None:
    (place / "deep/way").rename(place / "deep/old")
    (place / "deep/way").symlink_to("old")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file by rename": lambda place: replace(place, "work/f"),
    "a file that a link leads to": lambda place: replace(place, "other/f"),
    "a file removed": lambda place: (place / "work/g").unlink(),
    "a file made": lambda place: (place / "missing").write_text(""),
    "the way to a missing file made": lambda place: (place / "gone").mkdir() or (place / "gone/f").write_text(""),
    "a directory": replace_directory,
    "a parent": replace_parent,
    "a link": swap_link,
    "a file, its directory's times set back": exchange_and_back_date,
    "a link of a file": lambda place: (place / "to-file").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rests", [True, False])
def test_a_changed_place_is_seen(
    place: Path, mounts: MountTable, monkeypatch: pytest.MonkeyPatch, change: str, rests: bool
) -> None:
    if rests:
        identity = at_rest(place, mounts, monkeypatch)
        watched = identity._watched
        assert watched is not None
        assert not watched[0].restless
    else:
        identity = identity_of(place, mounts)
        assert identity.holds()
        watched = identity._watched
        assert watched is not None
        assert watched[0].restless
    assert watched[0].holds()
    assert identity.holds()
    CHANGES[change](place)
    assert not watched[0].holds()
    assert not identity.holds()


def test_what_changes_no_place_is_no_change(place: Path, mounts: MountTable, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = at_rest(place, mounts, monkeypatch)
    first = identity._watched
    (place / "work/unrelated").write_text("")
    assert identity.holds()
    time.sleep(2 * REST_S)
    assert identity.holds()
    assert identity._watched != first
    assert identity._watched is not None
    assert identity._watched[0].holds()


def test_a_link_instead_of_the_same_directory_is_seen_as_a_new_way(
    place: Path, mounts: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = at_rest(place, mounts, monkeypatch)
    link_on_the_way(place)
    assert identity._watched is not None
    assert not identity._watched[0].holds()
    assert identity.holds()  # the same file: what the kernel's tables hold is right
    time.sleep(2 * REST_S)
    assert identity.holds()
    (place / "deep/old").rename(place / "deep/older")
    (place / "elsewhere/way").rename(place / "deep/old")
    assert not identity.holds()


def test_fewer_looks(place: Path, mounts: MountTable, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [place / f"work/{number}" for number in range(100)]
    for path in many:
        path.touch()
    monkeypatch.setattr(directories, "AT_REST_S", REST_S)
    until, watched = time.monotonic() + 60, None
    while watched is None or watched.restless:  # other processes make files in /var/tmp
        assert time.monotonic() < until, "other processes make and remove files in /var/tmp all the time"
        time.sleep(2 * REST_S)
        mounts.refresh()
        watched = directories.watch([(str(path), "f") for path in many], mounts.file_systems(), mounts.watch)
    assert len(watched.answer) // directories._LOOK.size == len(Path(many[0]).parents)


def test_other_file_systems_are_looked_at_name_by_name(mounts: MountTable) -> None:
    mounts.refresh()
    paths = [("/proc/self/status", "f"), ("/sys/kernel", "f")]
    watched = directories.watch(paths, mounts.file_systems(), mounts.watch)
    assert watched is not None
    assert not watched.restless
    without = directories.watch([("/etc/hostname", "f")], {}, mounts.watch)
    assert without is not None
    assert len(watched.unwatched_answer) == directories._LOOK.size  # not of what only the kernel names
    assert len(watched.kernels_answer) == directories._LOOK.size
    assert len(without.answer) == directories._LOOK.size


def test_what_the_kernel_names_in_sysfs_is_looked_at_after_a_while(
    mounts: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "AT_REST_S", 0.0)
    rule = FsRule(path="/sys/devices/system/cpu/online", allow=1, text="t")
    identity = Identity(CompiledPolicy(name="t", version="t", fs=(rule,)), mounts)
    assert identity.holds()
    assert identity._watched is not None
    watched = identity._watched[0]
    answer = watched.kernels_answer
    watched.kernels_answer = bytes(len(answer))  # another file, by now
    assert answer not in (b"", watched.kernels_answer)
    assert watched.unwatched_holds()
    watched.kernels_at = 0.0
    assert not watched.unwatched_holds()
    watched.kernels_answer = answer
    assert watched.unwatched_holds()
    assert 0.0 < watched.kernels_at - time.monotonic() <= directories.KERNELS_S


def test_a_control_group_in_the_place_of_another_is_seen_at_once(
    mounts: MountTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = Path("/sys/fs/cgroup/pids" if os.path.isdir("/sys/fs/cgroup/pids") else "/sys/fs/cgroup")
    require("cgroup", os.access(top, os.W_OK), f"{top} cannot be written to")
    monkeypatch.setattr(directories, "AT_REST_S", 0.0)
    group = Path(tempfile.mkdtemp(prefix="pyisolate-test-", dir=top))
    try:
        rule = FsRule(path=str(group), allow=1, text="t")
        identity = Identity(CompiledPolicy(name="t", version="t", fs=(rule,)), mounts)
        assert identity.holds()
        group.rmdir()
        group.mkdir()
        assert not identity.holds()
    finally:
        group.rmdir()


def test_a_watched_directory_counts_its_first_change_and_is_watched_again_when_added(tmp_path: Path) -> None:
    with contextlib.closing(watch.Watch()) as watched:
        assert watched.add([str(tmp_path), str(tmp_path / "missing")]) == [str(tmp_path / "missing")]
        first = watched.count
        (tmp_path / "one").touch()
        second = watched.count
        (tmp_path / "two").touch()
        assert first != second == watched.count
        for _ in range(200):  # without a rest between the event and the new watch
            assert watched.add([str(tmp_path)]) == []
            before = watched.count
            (tmp_path / "two").unlink(missing_ok=True)
            (tmp_path / "two").touch()
            assert watched.count != before


@pytest.mark.parametrize("watched", [True, False])
def test_a_changed_place_is_seen_where_nothing_can_be_watched(
    place: Path, mounts: MountTable, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    monkeypatch.setattr(watch, "MOST", 4096 if watched else 0)
    identity = at_rest(place, mounts, monkeypatch)
    if watched:  # they were watched, and are no more
        mounts.watch.close()
    assert identity.holds()
    replace(place, "work/f")
    assert not identity.holds()


def test_no_more_is_watched_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST", 1)
    with contextlib.closing(watch.Watch()) as watched:
        (tmp_path / "other").mkdir()
        watched.add([str(tmp_path)])
        before = watched.count
        assert watched.add([str(tmp_path / "other")]) == []
        assert watched.count != before  # who relied on the first looks again
        assert watched.add([str(tmp_path), str(tmp_path / "other")]) == [str(tmp_path), str(tmp_path / "other")]
