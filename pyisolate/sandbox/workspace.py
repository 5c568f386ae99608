"""The host's end of a sandbox's workspace: a descriptor of its directory, and how full its tmpfs is."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from ..errors import SandboxClosed
from ..limits.usage import Filling
from ..policy import workspace
from .beneath import DIRECTORY, make_directories, open_beneath
from .copy_on_write import CopyOnWrite


class Workspace:
    """One sandbox's workspace, from hand-out to close: what a guest left there can be read after its end."""

    def __init__(self, descriptor: int, name: str, given: int | None = None) -> None:
        self._descriptor = descriptor
        #: True where a directory of the host's is in it, which nothing bounds
        self.hosts = given is not None
        #: the directory in it where the guest starts, where that is not its top: the host's, or that of a copy
        self._project = None if given is None else os.dup(given)
        #: the sandbox's, in errors; one that stood by gets its own when it is spawned
        self.name = name
        self._lock = threading.Lock()
        #: the host's directory that it is a copy of, where it is one
        self.copy: CopyOnWrite | None = None

    @property
    def has_project(self) -> bool:
        """True where the guest starts in a directory below its home: what it keeps for itself is beside that."""
        return self._project is not None

    def make_project(self) -> None:
        """Make the directory for a copy, before the guest starts in it. Raises OSError."""
        name = os.path.basename(workspace.PROJECT)
        make_directories(self._descriptor, name)
        self._project = open_beneath(self._descriptor, name, DIRECTORY)

    def directory(self) -> contextlib.AbstractContextManager[int]:
        """Lend a descriptor of the directory in which the guest starts. Raises SandboxClosed after `close`."""
        return self._lend(project=True)

    def memory(self) -> contextlib.AbstractContextManager[int]:
        """Lend a descriptor of its tmpfs. Raises SandboxClosed after `close`."""
        return self._lend(project=False)

    @contextlib.contextmanager
    def holding(self, path: str) -> Iterator[tuple[int, str]]:
        """Lend, for a guest's absolute path in it, a descriptor of the directory that holds it, and the name below."""
        given = self.hosts and workspace.is_project(path)
        with self._lend(project=given) as top:
            yield top, path[len(workspace.PROJECT if given else workspace.HOME) + 1 :] or "."

    @contextlib.contextmanager
    def _lend(self, *, project: bool) -> Iterator[int]:
        with self._lock:
            if self._descriptor < 0:
                raise SandboxClosed(f"files of {self.name!r}: the sandbox is closed, and its workspace is gone")
            own = os.dup(self._project if project and self._project is not None else self._descriptor)
        try:
            yield own
        finally:
            os.close(own)

    def filling(self) -> Filling | None:
        """Return how full it is, None once it is closed. Of a directory of the host's nothing tells."""
        with self._lock:
            if self._descriptor < 0:
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
            if self._project is not None:
                os.close(self._project)
        if self.copy is not None:
            self.copy.close()

    def abandon(self) -> None:
        """In a forked child of the host: close the copy without the lock, which another thread may have held."""
        self._lock = threading.Lock()
        self.close()
