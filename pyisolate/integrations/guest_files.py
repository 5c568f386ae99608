"""An agent's files: those of its sandbox's workspace by the host, all others by the guest, under its policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from ..errors import GuestError, SandboxClosed, SandboxError
from ..sandbox.process import Sandbox

#: Where files of the agent's are, unless it names another place that the policy grants.
WORKSPACE = PurePosixPath("/sandbox/workspace")
#: What a guest's error is for the host, by its name.
_KNOWN: dict[str, type[OSError]] = {
    kind.__name__: kind
    for kind in (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError)
}


class FileTooLarge(SandboxError):
    """A file has more bytes than were asked for."""


def read_file(sandbox: Sandbox, path: str, *, max_bytes: int, timeout: float | None = None) -> bytes:
    """Return a file's bytes. Raises OSError, FileTooLarge past `max_bytes`, PolicyError, and what `call` raises."""
    if (inside := in_workspace(path)) is None:
        data = _guests(sandbox, _read, path, max_bytes + 1, timeout=timeout)
        if type(data) is not bytes:  # what a guest says: of a number, bytes() would make as many
            raise SandboxError(
                operation="read",
                subject=path,
                cause=f"the guest returned {type(data).__name__}, not bytes",
                hint="code of the guest has changed `open`: read the file in a sandbox that has run none",
            )
    else:
        try:
            return sandbox.files.read(inside, max_bytes=max_bytes)
        except SandboxClosed:
            raise
        except SandboxError as error:  # it has no other
            raise FileTooLarge(operation="read", subject=path, cause=f"more than {max_bytes} bytes") from error
    if len(data) > max_bytes:
        raise FileTooLarge(operation="read", subject=path, cause=f"more than {max_bytes} bytes")
    return data


def write_file(sandbox: Sandbox, path: str, data: bytes, *, timeout: float | None = None) -> None:
    """Write a file whole, with the directories above it. Raises OSError, PolicyError, and what `call` raises."""
    if (inside := in_workspace(path)) is not None:
        sandbox.files.write(inside, data)
    else:
        _guests(sandbox, _write, path, data, timeout=timeout)


def make_directory(sandbox: Sandbox, path: str, parents: bool, *, timeout: float | None = None) -> None:
    """Make a directory; with `parents` also those above it, and one that exists is none. Raises as `write_file`."""
    _guests(sandbox, _make, path, parents, timeout=timeout)


def in_workspace(path: str) -> str | None:
    """Return a path as the workspace's files know it, None for one elsewhere."""
    whole = WORKSPACE / path
    return str(whole.relative_to(WORKSPACE)) if whole.is_relative_to(WORKSPACE) and ".." not in whole.parts else None


def _guests(sandbox: Sandbox, use: Callable[..., Any], *arguments: Any, timeout: float | None) -> Any:
    try:
        return sandbox.call(use, *arguments, timeout=timeout)
    except GuestError as error:
        if (kind := _KNOWN.get(error.type_name)) is None:
            raise
        raise kind(f"{arguments[0]}: {error.message}") from error


def _read(path: str, most: int) -> bytes:
    """Run in the guest; sent there by value."""
    with open(path, "rb") as file:
        return file.read(most)


def _make(path: str, parents: bool) -> None:
    """Run in the guest; sent there by value."""
    import os

    os.makedirs(path, exist_ok=True) if parents else os.mkdir(path)


def _write(path: str, data: bytes) -> None:
    """Run in the guest; sent there by value."""
    import os

    if above := os.path.dirname(path):
        os.makedirs(above, exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
