"""Debian's own kernels for the VM tier: found by apt, downloaded once, unpacked into a cache, never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Generic kernels (the cloud flavour lacks 9p), by the metapackage that names the newest of a series.
SERIES = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}


class KernelMissing(RuntimeError):
    """No kernel can be had: text says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    series: str
    release: str
    root: Path

    @property
    def image(self) -> Path:
        return self.root / f"boot/vmlinuz-{self.release}"


def cache() -> Path:
    base = (
        os.environ.get("PYISOLATE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyisolate"
    )
    return Path(base) / "kernels"


def kernel(series: str) -> Kernel:
    """Return a kernel of the series, from the cache where it is there."""
    found = cached(series)
    return found or download(series)


def cached(series: str) -> Kernel | None:
    pattern = re.compile(rf"{re.escape(series)}\.\d")
    ready = [path for path in sorted(cache().glob("*/.complete")) if pattern.match(path.parent.name)]
    return Kernel(series, ready[-1].parent.name, ready[-1].parent) if ready else None


def download(series: str) -> Kernel:
    for tool in ("apt-get", "dpkg-deb", "depmod"):
        if not shutil.which(tool):
            raise KernelMissing(f"kernel {series}: {tool} is not installed. Hint: apt-get install kmod, on Debian 12")
    package = _package(series)
    release = package.removeprefix("linux-image-")
    root = cache() / release
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)  # apt downloads as a user of its own
        _run(["apt-get", "download", package], cwd=scratch)
        archive = next(Path(scratch).glob("*.deb"))
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        _run(["dpkg-deb", "-x", str(archive), str(root)])
    _run(["depmod", "-b", str(root), release])
    (root / ".complete").touch()
    return Kernel(series, release, root)


def _package(series: str) -> str:
    for _ in range(2):
        listing = subprocess.run(
            ["apt-cache", "depends", SERIES[series]], capture_output=True, text=True, check=False
        ).stdout
        for word in re.findall(r"Depends: (linux-image-\S+)", listing):
            if word.startswith(f"linux-image-{series}"):
                return word
        _run(["apt-get", "update", "-qq"])
    raise KernelMissing(
        f"kernel {series}: apt knows no {SERIES[series]}. Hint: use Debian 12 with its security updates"
    )


def _run(command: list[str], cwd: str | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelMissing(
            f"{' '.join(command[:2])}: {done.stderr.strip()[-300:]}. Hint: check the network and apt's sources"
        )
