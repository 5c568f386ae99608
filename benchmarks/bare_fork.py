"""The floor under a sandbox: forks of a process that has the zygote's modules warm, each ending at once.

Unconfined, or confined by what every cell has whatever its policy: new namespaces, all of the first C call, the filter.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

Kind = Literal["unconfined", "confined"]
#: For each line with a kind and a number of seconds, answers how many children it forked and reaped in that time, or
#: `!` and why a child was not confined.
_SOURCE = """
import gc, os, sys, time
from pyisolate.cell.confine import AtFork, CellSpec, Steps
from pyisolate.cell.zygote import WARM_MODULES, _preload
from pyisolate.kernel.namespaces import ALL
from pyisolate.kernel.seccomp.filter import cell_program
from pyisolate.limits.rlimit import COMMON_RLIMITS
from pyisolate.native import process, seccomp
_preload(WARM_MODULES)
uid, gid = os.getuid() or 65534, os.getgid() or 65534
program = cell_program(notify=False)
at_fork = AtFork(CellSpec(uid=uid, gid=gid, zygote_uid=uid, clone_flags=ALL, seccomp_program=program,
                          forking_program=program, dumpable=False, rlimits=COMMON_RLIMITS), maps=False)
if os.getuid() == 0:
    process.become(uid, gid)
gc.collect(); gc.freeze()

def confined():
    pid, pidfd = process.clone_cell(ALL)
    if pid:
        os.close(pidfd)
        return pid
    steps = Steps()
    at_fork.apply(2, None, steps)
    if not steps.failed:
        seccomp.install(program, notify=False)
    os._exit(len(steps.failed))

for line in sys.stdin:
    kind, window = line.split()
    fork = confined if kind == "confined" else os.fork
    end, count = time.monotonic() + float(window), 0
    try:
        while time.monotonic() < end:
            if (pid := fork()) == 0:
                os._exit(0)
            if os.waitpid(pid, 0)[1]:
                raise OSError("a step of the confinement failed")
            count += 1
    except OSError as error:
        print("!", error, flush=True)
    else:
        print(count, flush=True)
"""


class Forkers:
    """As many processes as there shall be forks at a time."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def rate(self, window_s: float, kind: Kind = "unconfined") -> float:
        """Return the forks a second of all of them together. Raises RuntimeError where they cannot be confined."""
        for one in self._processes:
            assert one.stdin is not None
            one.stdin.write(f"{kind} {window_s}\n")
            one.stdin.flush()
        answers = [one.stdout.readline().strip() for one in self._processes if one.stdout is not None]
        if failed := [answer for answer in answers if not answer.isdigit()]:
            raise RuntimeError(f"{kind} forks: {failed[0].removeprefix('!').strip() or 'the process ended'}")
        return sum(map(int, answers)) / window_s


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
