"""Programs that are killed with all below them: who outlives a killed supervisor becomes our child, and shows."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests import leaks

PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux 3.4
TREE = Path(__file__).resolve().parent.parent.parent


class Orphans:
    """Starts programs and accounts for every process that comes of them. Made by `adopting`."""

    def __init__(self) -> None:
        self._before = set(leaks.children_of("self"))

    def start(self, script: str, *arguments: str, stdout: int | None = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """Start one of this folder's scripts."""
        command = [sys.executable, str(Path(__file__).parent / script), *arguments]
        return subprocess.Popen(command, cwd=TREE, stdin=subprocess.DEVNULL, stdout=stdout)

    def alive(self) -> list[str]:
        """Reap who is dead; return who is not, by its command line."""
        found = []
        for pid in set(leaks.children_of("self")) - self._before:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    found.append(_describe(pid))
        return found

    def wait_for_none(self, within_s: float) -> list[str]:
        """Give what is left `within_s` seconds to end by itself; return what has not."""
        deadline = time.monotonic() + within_s
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def kill_all(self) -> None:
        """End what is left, so that one failure does not become many."""
        for pid in set(leaks.children_of("self")) - self._before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_for_none(5)


@contextlib.contextmanager
def adopting() -> Iterator[Orphans]:
    """Be the parent of every orphan below this process (PR_SET_CHILD_SUBREAPER) meanwhile."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    orphans = Orphans()
    try:
        yield orphans
    finally:
        orphans.kill_all()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _describe(pid: int) -> str:
    try:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"{pid}"
    return f"{pid} {status['Name']} {status['State']} {words}"
