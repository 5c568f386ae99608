"""Processes of the tests end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: What an orderly end may take once the judge is gone.
GRACE_S = 30
_libc = ctypes.CDLL(None)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send a signal when the parent's thread ends. Undone by a change of credentials: call it after."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def end_with_parent() -> None:
    """Have GRACE_S for an orderly end once the parent has gone (its end of the socket is closed then)."""
    parent = os.getppid()

    def wind_up(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(GRACE_S)

    signal.signal(signal.SIGALRM, wind_up)
    die_with_parent(signal.SIGALRM)
    if os.getppid() != parent:
        raise SystemExit(1)


def leave_no_group() -> None:
    """Have this process's group killed when it ends: what a guest's thread forked is in it, and told nothing.

    A child that waits for nothing else does it: children of guests hold copies of every pipe, so no end of file comes.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    if os.fork() == 0:
        os.closerange(0, 4096)
        die_with_parent(signal.SIGUSR1)
        signal.sigwait([signal.SIGUSR1])
        os.killpg(0, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> int:
    """Kill and reap every child, adopted ones too; return how many there were."""
    ended = 0
    while children := _children():
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for child in children:
            try:
                os.waitpid(child, 0)
            except ChildProcessError:
                pass
            ended += 1
    return ended


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]
