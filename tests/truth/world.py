"""What the operations are about. Everything is made in one temporary folder, on loopback and in the policy."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyisolate

_FOLDERS = ("hidden", "readable", "readable/folder", "readable/denied", "writable", "writable/folder", "appendable")
_FILES = {
    "hidden/program": Path("/bin/true").read_bytes(),
    **dict.fromkeys(
        (
            "hidden/secret.txt",
            "readable/file.txt",
            "readable/denied/inside.txt",
            "writable/file.txt",
            "appendable/file.txt",
        ),
        b"content\n",
    ),
}


@dataclass(frozen=True)
class World:
    """Names that operations use, by the letters `{...}` of the table."""

    root: Path
    port: int
    closed: int

    def names(self) -> dict[str, str]:
        """Return the table's names: ungranted (`secret`, `hidden`), readable, writable, and denied below a grant."""
        root = str(self.root)
        return {
            "root": root,
            "secret": f"{root}/hidden/secret.txt",
            "hidden": f"{root}/hidden",
            "ro": f"{root}/readable",
            "rofile": f"{root}/readable/file.txt",
            "rodir": f"{root}/readable/folder",
            "rw": f"{root}/writable",
            "rwfile": f"{root}/writable/file.txt",
            "nodelete": f"{root}/appendable/file.txt",
            "nodeletedir": f"{root}/appendable",
            "denied": f"{root}/readable/denied/inside.txt",
            "denieddir": f"{root}/readable/denied",
            "program": f"{root}/hidden/program",
            "absent": f"{root}/hidden/absent",
            "unix": f"{root}/hidden/socket",
            "port": str(self.port),
            "closed": str(self.closed),
        }

    def restore(self) -> None:
        """Put all files back as they were, in the folders that a root view has by now."""
        _restore(self.root)

    def policy(self, *, denying: bool = True) -> pyisolate.Policy:
        """Return the policy of all operations: enough to try them, and nothing that they ask for.

        `denying` False leaves out the denial below a grant, with which no kernel without BPF-LSM can widen that grant.
        """
        root = str(self.root)
        return pyisolate.Policy.from_dict(
            {
                "version": 1,
                "name": "truth",
                "extends": "compute",
                "fs": [
                    {"path": f"{root}/readable", "allow": ["read"]},
                    *([{"path": f"{root}/readable/denied", "deny": ["read"]}] * denying),
                    {"path": f"{root}/writable", "allow": ["read", "write", "create", "delete"]},
                    {"path": f"{root}/appendable", "allow": ["read", "write"]},
                ],
                "net": [{"connect": f"127.0.0.1:{self.port}"}, {"bind": f"127.0.0.1:{self.closed}"}],
                "import": {
                    "allow": [
                        "ctypes",
                        "_ctypes",
                        "_socket",
                        "mmap",
                        "fcntl",
                        "sqlite3",
                        "runpy",
                        "pkgutil",
                        "importlib",
                    ],
                    "native": ["ctypes", "_ctypes"],
                },
            }
        )


def _restore(root: Path) -> None:
    for folder, folders, files in os.walk(root, topdown=False):
        for name in folders:
            if not (inside := Path(folder, name)).is_symlink() and inside.relative_to(root).as_posix() not in _FOLDERS:
                inside.rmdir()
        for name in files:
            if (inside := Path(folder, name)).relative_to(root).as_posix() not in (*_FILES, "hidden/socket"):
                inside.unlink()
    for name in _FOLDERS:
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o777)
    for name, content in _FILES.items():
        (root / name).write_bytes(content)
        (root / name).chmod(0o777 if name == "hidden/program" else 0o666)


@contextlib.contextmanager
def make_world() -> Iterator[World]:
    """Make the files and a listening socket; everything is removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pyisolate-truth-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o755)
        _restore(root)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        other = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        free = stack.enter_context(socket.socket())
        free.bind(("127.0.0.1", 0))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(root / "hidden/socket"))
        os.chmod(root / "hidden/socket", 0o777)
        unix.listen()
        world = World(root, listening.getsockname()[1], other.getsockname()[1])
        yield world
