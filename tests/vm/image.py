"""Make the disk from which a program in an emulated machine imports.

Over 9p each lookup and each page leaves the emulated processor: `import pyisolate` takes four times as long as from a
disk, whose pages the machine keeps.
"""

from __future__ import annotations

import compileall
import contextlib
import functools
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
#: What programs inside import; what else is installed (hundreds of MB) stays where it is, behind links.
NEEDED = ("pyisolate-kernel", "pytest", "pytest-timeout", "hypothesis", "setuptools")
#: Inside: where the disk is, and where the packages that are not on it are.
DISK, REST = Path("/run/pyisolate-disk"), Path("/run/pyisolate-packages")
LIBRARY, PACKAGES = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
#: What the disk holds, by its name there: mounted over the directory that it was copied from.
COPIED = {"library": LIBRARY, "packages": PACKAGES, "pyisolate": ROOT / "pyisolate", "tests": ROOT / "tests"}
_making = threading.Lock()


class CannotBoot(RuntimeError):
    """A tool is missing without which there is no machine: text says what to do."""


def disk() -> BinaryIO:
    """Return the open file that is the disk's content: it has no name, and is gone with this process."""
    with _making:  # machines that start together share one
        return _disk()


@functools.cache
def _disk() -> BinaryIO:
    program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise CannotBoot("mke2fs is not installed. Hint: apt-get install e2fsprogs")
    with tempfile.TemporaryDirectory(prefix="pyisolate-vm-disk-") as name:
        tree, image = Path(name, "tree"), Path(name, "image")
        copy(tree)
        files = sum(1 + len(found) for _, _, found in os.walk(tree))
        size = sum(os.lstat(Path(at, file)).st_size + 4096 for at, _, found in os.walk(tree) for file in found)
        with image.open("wb") as file:
            file.truncate(size + size // 8 + (16 << 20))
        command = [program, "-q", "-F", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-N"]
        subprocess.run([*command, str(2 * files), "-d", str(tree), str(image)], check=True)
        return image.open("rb")


def copy(tree: Path) -> None:
    """Copy what machines import, and compile it here, where it is quick: they cannot write to it."""
    unused = shutil.ignore_patterns("test", "idlelib", "lib2to3", "ensurepip", "site-packages", "*.tmp")
    shutil.copytree(LIBRARY, tree / "library", symlinks=True, ignore=unused)
    for name in ("pyisolate", "tests"):
        shutil.copytree(COPIED[name], tree / name, symlinks=True)
        compileall.compile_dir(tree / name, quiet=2, stripdir=str(tree), prependdir=str(ROOT), workers=0)
    needed = top_level(NEEDED)
    (tree / "packages").mkdir()
    for entry in PACKAGES.iterdir():
        target = tree / "packages" / entry.name
        if entry.name not in needed and entry.suffix != ".pth" and not entry.name.startswith("__editable__"):
            target.symlink_to(REST / entry.name)
        elif entry.is_dir():
            shutil.copytree(entry, target, symlinks=True)
        else:
            shutil.copy2(entry, target)


def top_level(names: tuple[str, ...]) -> set[str]:
    """Return what distributions, and those that they require here, have put next to one another in site-packages."""
    found, ahead = dict[str, importlib.metadata.Distribution](), list(names)
    while ahead:
        name = ahead.pop().lower()
        if name in found:
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.distribution(name)
            wanted = map(Requirement, found[name].requires or ())
            ahead += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {path.parts[0] for one in found.values() for path in one.files or ()}


def mounts() -> str:
    """Return the shell command that puts the disk's content in its places, inside the machine."""
    steps = [["modprobe", "-a", "virtio_blk", "ext4"], ["mkdir", "-p", str(DISK), str(REST)]]
    steps += [["mount", "--bind", str(PACKAGES), str(REST)], ["mount", "-t", "ext4", "-o", "ro", "/dev/vda", str(DISK)]]
    steps += [["mount", "--bind", str(DISK / name), str(place)] for name, place in COPIED.items()]
    return " && ".join(map(shlex.join, steps))
