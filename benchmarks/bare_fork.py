"""The floor under a sandbox: forks of a process that has the zygote's modules warm, unconfined, each ending at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

#: For each line with a number of seconds, answers how many children it forked and reaped in that time.
_SOURCE = """
import gc, os, sys, time
from pyisolate.cell.zygote import WARM_MODULES, _preload
_preload(WARM_MODULES)
gc.collect(); gc.freeze()
for line in sys.stdin:
    end, count = time.monotonic() + float(line), 0
    while time.monotonic() < end:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        count += 1
    print(count, flush=True)
"""


class Forkers:
    """As many processes as there shall be forks at a time."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def rate(self, window_s: float) -> float:
        """Return the forks a second of all of them together."""
        for one in self._processes:
            assert one.stdin is not None
            one.stdin.write(f"{window_s}\n")
            one.stdin.flush()
        counts = [int(one.stdout.readline()) for one in self._processes if one.stdout is not None]
        return sum(counts) / window_s


@contextlib.contextmanager
def forkers(count: int) -> Iterator[Forkers]:
    """Start `count` warm processes; they end with the block."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-I", "-c", _SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            made.append(one)
        yield Forkers(made)
