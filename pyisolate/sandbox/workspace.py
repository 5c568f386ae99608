"""The host's end of a sandbox's workspace: a descriptor of its directory, and how full its tmpfs is."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from ..errors import SandboxClosed
from ..limits.usage import Filling
from .copy_on_write import CopyOnWrite


class Workspace:
    """One sandbox's workspace, from hand-out to close: what a guest left there can be read after its end."""

    def __init__(self, descriptor: int, name: str, *, hosts: bool = False) -> None:
        self._descriptor = descriptor
        #: the sandbox's, in errors; one that stood by gets its own when it is spawned
        self.name = name
        #: a directory of the host's: no memory, and nothing bounds it
        self.hosts = hosts
        self._lock = threading.Lock()
        #: the host's directory that it is a copy of, where it is one
        self.copy: CopyOnWrite | None = None

    @contextlib.contextmanager
    def directory(self) -> Iterator[int]:
        """Lend a descriptor of the workspace's directory, of its own. Raises SandboxClosed after `close`."""
        with self._lock:
            if self._descriptor < 0:
                raise SandboxClosed(f"files of {self.name!r}: the sandbox is closed, and its workspace is gone")
            own = os.dup(self._descriptor)
        try:
            yield own
        finally:
            os.close(own)

    def filling(self) -> Filling | None:
        """Return how full it is, None once it is closed, and where nothing bounds it."""
        with self._lock:
            if self._descriptor < 0 or self.hosts:
                return None
            found = os.statvfs(self._descriptor)
        size = found.f_blocks * found.f_frsize
        exhausted = found.f_bavail == 0 or found.f_ffree == 0
        return Filling(size - found.f_bfree * found.f_frsize, size, exhausted, found.f_ffree)

    def close(self) -> None:
        """Let the memory go, once no process of the sandbox is left. Idempotent."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        if self.copy is not None:
            self.copy.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copy without the lock, which another thread may have held."""
        self._lock = threading.Lock()
        self.close()
