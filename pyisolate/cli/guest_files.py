"""`--file` and `--out` of `run`: what goes into the guest's workspace, and what it made there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import click

from ..policy import workspace

if TYPE_CHECKING:
    from ..sandbox.process import Sandbox
    from ..sandbox.thread import SandboxThread

#: For --file and --out, where the policy has no workspace.
WORKSPACE = "64MiB"


class Copied(NamedTuple):
    """Host paths of the files that were copied, and names that were left out: links, FIFOs, sockets."""

    files: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def named_file(text: str) -> tuple[str, Path]:
    """Return the parts of [NAME=]PATH; where the whole text is the path of a file, it is meant as such."""
    name, equals, value = text.partition("=")
    if not equals or not name or Path(text).exists():
        name, value = Path(text).absolute().name, text
    if not Path(value).exists():
        raise click.UsageError(f"--file {text!r}: there is no {value!r}.")
    return name, Path(value)


class Changes:
    """What a guest changes in its workspace from here on."""

    def __init__(self, sandbox: Sandbox | SandboxThread) -> None:
        if sandbox.isolation == "thread":
            raise ValueError("--out: a sandbox thread has no workspace: leave out --isolation thread")
        self._sandbox = cast("Sandbox", sandbox)
        self._before = set(self._sandbox.files.list(recursive=True))

    def copy(self, folder: str) -> Copied:
        """Copy it to a directory of the host's. Raises OSError; SandboxError for more than the workspace can hold."""
        files, left = self._sandbox.files, self._sandbox.policy.workspace or 0
        copied: list[str] = []
        left_out: list[str] = []
        Path(folder).mkdir(parents=True, exist_ok=True)
        for entry in files.list(recursive=True):
            if entry in self._before or entry.path.partition("/")[0] in workspace.OF_LIBRARIES:
                continue
            if entry.kind == "other":
                left_out.append(entry.path)
            elif entry.kind == "file":
                copied += files.get(entry.path, Path(folder, entry.path), max_bytes=left).files
                left -= min(left, entry.size)
        return Copied(tuple(copied), tuple(left_out))
