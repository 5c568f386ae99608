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

ATTRIBUTE = b"user.truth"


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
                    "allow": ["ctypes", "_ctypes", "_socket", "mmap", "fcntl", "sqlite3"],
                    "native": ["ctypes", "_ctypes"],
                },
            }
        )


@contextlib.contextmanager
def make_world() -> Iterator[World]:
    """Make the files and a listening socket; everything is removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pyisolate-truth-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o755)
        for folder in ("hidden", "readable/folder", "readable/denied", "writable/folder", "appendable"):
            (root / folder).mkdir(parents=True)
        for name in ("hidden/secret.txt", "readable/file.txt", "readable/denied/inside.txt", "writable/file.txt"):
            (root / name).write_text("content\n")
        (root / "appendable/file.txt").write_text("content\n")
        program = root / "hidden/program"
        shutil.copy("/bin/true", program)
        for folder, folders, files in os.walk(root):
            for name in folders:
                os.chmod(os.path.join(folder, name), 0o777)
            for name in files:
                os.chmod(os.path.join(folder, name), 0o777 if name == "program" else 0o666)
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
