"""The disk of an emulated machine holds what programs import there, and leaves nothing in this one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.require import require
from tests.vm import image

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def test_a_distribution_comes_with_what_it_requires() -> None:
    found = image.top_level(("pytest",))
    assert {"pytest", "_pytest", "pluggy", "iniconfig"} <= found
    assert "msgspec" not in found
    assert "msgspec" in image.top_level(("pyisolate-kernel",))


def test_the_disk_holds_what_was_copied_and_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    debugfs = shutil.which("debugfs", path=PATH)
    if debugfs is None:
        require("e2fsprogs", False, "debugfs is not installed")

    def copy(tree: Path) -> None:
        (tree / "packages").mkdir(parents=True)
        (tree / "packages/module.py").write_text("found = True")
        (tree / "packages/rest").symlink_to(image.REST / "rest")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(image.tempfile, "tempdir", None)
    monkeypatch.setattr(image, "copy", copy)
    with image._disk.__wrapped__() as disk:
        assert list(tmp_path.iterdir()) == []
        command = [debugfs, "-R", "cat /packages/module.py", f"/proc/{os.getpid()}/fd/{disk.fileno()}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "found = True"
        command[2] = "stat /packages/rest"
        assert f'"{image.REST}/rest"' in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image.shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(image.CannotBoot, match=r"mke2fs is not installed\. Hint: apt-get install e2fsprogs"):
        image._disk.__wrapped__()


def test_what_a_machine_imports_is_mounted_over_what_it_was_copied_from() -> None:
    steps = image.mounts().split(" && ")
    assert f"mount --bind {image.DISK}/pyisolate {image.ROOT}/pyisolate" in steps
    # the rest of the packages is kept in sight before the disk's come over it
    kept, covered = (
        f"mount --bind {image.PACKAGES} {image.REST}",
        f"mount --bind {image.DISK}/packages {image.PACKAGES}",
    )
    assert steps.index(kept) < steps.index(covered)
