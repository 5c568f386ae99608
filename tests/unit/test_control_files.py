"""Files of the kernel that are read and written whole, in one call each."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyisolate.native.control_files import read, write, write_each


@pytest.mark.parametrize("size", [0, 10, 4095, 4096, 40_000])
def test_a_file_is_read_whole_whatever_its_size(tmp_path: Path, size: int) -> None:
    text = "".join(f"{number}\n" for number in range(size))[:size]
    (tmp_path / "cgroup.procs").write_text(text)
    assert read(f"{tmp_path}/cgroup.procs") == text


def test_the_same_is_written_into_each_up_to_the_first_that_fails_and_that_one_is_named(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/{name}" for name in ("first", "absent/second", "third")]
    for name in ("first", "third"):
        (tmp_path / name).write_text("")
    with pytest.raises(FileNotFoundError) as caught:
        write_each(paths, "42")
    assert caught.value.filename == paths[1]
    assert [(tmp_path / name).read_text() for name in ("first", "third")] == ["42", ""]


def test_errors_name_the_file(tmp_path: Path) -> None:
    for failing in (lambda: read(f"{tmp_path}/none"), lambda: write(f"{tmp_path}/none", "1")):
        with pytest.raises(FileNotFoundError) as caught:
            failing()
        assert caught.value.filename == f"{tmp_path}/none"
    assert not (tmp_path / "none").exists()
