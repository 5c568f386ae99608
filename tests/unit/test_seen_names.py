"""Where a guest's name leads is found as the kernel finds it, at a cost that no name of a guest's makes large."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.kernel.seen_names import SeenNames
from pyisolate.native import looks, mount
from pyisolate.policy import workspace

_NAMES = ("a", "b", "l", "up", "none", "loop", "f", "..", ".", "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path.resolve()
    (top / "a/b/a").mkdir(parents=True)
    (top / "b").mkdir()
    (top / "f").write_text("")
    (top / "a/l").symlink_to("../b")
    (top / "l").symlink_to(top / "a/b")
    (top / "a/up").symlink_to("..")
    (top / "b/none").symlink_to("nowhere/f")
    return top


def test_a_name_is_followed_as_by_realpath(tree: Path) -> None:
    chance, names = random.Random(7), SeenNames()
    for _ in range(3000):
        path = "/".join([str(tree), *chance.choices(_NAMES, k=chance.randint(1, 9))])
        assert names.followed(path) == os.path.realpath(path), path


def test_nothing_is_looked_at_below_what_is_not_there(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, readlink = [], looks.readlink

    def count(path: str) -> str:
        looked.append(path)
        return readlink(path)

    monkeypatch.setattr(looks, "readlink", count)
    path = f"{tree}/none" + "/a" * 1900
    assert SeenNames().followed(path) == path
    assert looked[-1] == f"{tree}/none"
    assert len(looked) == len(tree.parts)
    assert SeenNames().followed(f"{path}/{'../' * 1901}l") == f"{tree}/a/b"  # and again where the name comes back


def test_a_workspace_is_looked_at_without_waiting_for_a_directory_of_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, openat2 = [], mount.openat2

    def watched(path: str, flags: int, resolve: int, *, dirfd: int) -> int:
        resolved.append(resolve)
        return openat2(path, flags, resolve, dirfd=dirfd)

    monkeypatch.setattr(mount, "openat2", watched)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        Path(name, "d").mkdir()
        Path(name, "d/f").write_text("x")
        top = os.open(name, os.O_RDONLY)

        @contextlib.contextmanager
        def own(path: str) -> Iterator[tuple[int, str]]:
            yield top, os.path.relpath(path, workspace.HOME)

        names = SeenNames(own)
        assert names.is_seen(f"{workspace.HOME}/d/f")
        assert not names.is_there(f"{workspace.HOME}/d/none")
        assert not names.is_there(f"{workspace.HOME}/none/f")
        os.close(top)
    assert resolved
    assert all(one & mount.RESOLVE_CACHED for one in resolved)


def test_the_workspace_lies_below_what_the_host_has_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    top = os.open(tmp_path, os.O_RDONLY)

    @contextlib.contextmanager
    def own(path: str) -> Iterator[tuple[int, str]]:
        yield top, os.path.relpath(path, workspace.HOME)

    names = SeenNames(own, ("/none/tmp",))
    assert not os.path.exists(os.path.dirname(workspace.HOME))
    assert names.followed(f"{workspace.HOME}/link") == f"{workspace.HOME}/f"
    assert names.followed("/none/tmp/link") == f"{workspace.HOME}/f"
    os.close(top)
