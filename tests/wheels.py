"""Wheels that tests make: a few files and their metadata (PEP 427)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def make_wheel(
    directory: Path,
    name: str,
    files: Mapping[str, bytes | str],
    *,
    version: str = "1.0",
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel of `files` into a directory and return its path."""
    metadata = f"{name}-{version}.dist-info"
    stated = "".join(f"Requires-Dist: {one}\n" for one in requires)
    content = {
        **files,
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{stated}",
        f"{metadata}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in content) + f"{metadata}/RECORD,,\n"
    directory.mkdir(exist_ok=True)
    made = directory / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
        archive.writestr(f"{metadata}/RECORD", record)
    return made
