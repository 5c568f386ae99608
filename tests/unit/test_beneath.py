"""What the host writes into a workspace is the guest's, and of no user whom the directory itself keeps out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.sandbox import beneath

_GUEST = 65534 if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def given(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    folder = tmp_path / "given"
    folder.mkdir()
    folder.chmod(0o755)
    os.chown(folder, _GUEST, -1)
    top = os.open(folder, beneath.DIRECTORY)
    yield folder, top
    os.close(top)


def _write(top: int, name: str) -> None:
    with beneath.Target(top, name) as target:
        os.write(target.descriptor, b"x")
        target.keep()


def _of(path: Path) -> tuple[str, int]:
    found = path.stat()
    return oct(found.st_mode & 0o777), found.st_uid


@pytest.mark.parametrize(
    ("mode", "file", "folder"), [(0o755, 0o600, 0o700), (0o700, 0o600, 0o700), (0o777, 0o666, 0o777)]
)
def test_all_may_write_what_the_host_wrote_only_where_all_may_write_already(
    given: tuple[Path, int], mode: int, file: int, folder: int
) -> None:
    path, top = given
    path.chmod(mode)
    _write(top, "sub/deep/file")
    owner = os.geteuid() if mode == 0o777 else _GUEST
    assert _of(path / "sub/deep/file") == (oct(file), owner)
    assert [_of(path / name) for name in ("sub", "sub/deep")] == [(oct(folder), owner)] * 2


@pytest.mark.parametrize("swapped", ["full", "readable", "none"])
def test_a_directory_that_is_put_in_the_place_of_a_new_one_is_not_given_away(
    given: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    path, top = given
    other = path / "other"
    other.mkdir(0o700)
    if swapped == "full":
        (other / "key").write_text("secret")
    if swapped == "readable":
        other.chmod(0o750)
    before, make = _of(other), os.mkdir

    def swap(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        if swapped != "none":
            (path / name).rename(path / "moved")
            other.rename(path / name)

    monkeypatch.setattr(os, "mkdir", swap)
    if swapped == "none":  # the control
        return _write(top, "new/file")
    with pytest.raises(OSError, match="another directory") as caught:
        _write(top, "new/file")
    assert caught.value.errno == errno.ESTALE
    assert _of(path / "new") == before
    return None
