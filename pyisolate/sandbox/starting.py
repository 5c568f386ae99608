"""Programs of one sandbox that start, one at a time, where its host is asked about some of them.

Each waits at the listener. A yes opens the gate of its program, the call goes on, and the gate is shut before any other
call goes on: one yes is one start. The file that runs is the one that has the gate, whatever the guest's memory says by
then; another one that it names instead is refused by its own gate, or granted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Protocol

_log = logging.getLogger("pyisolate.sandbox.starting")
#: How long a call may take from when it goes on until its program runs (seconds): the loader is read from a disk.
_START_S = 20.0
_LOOK_S = 0.0005


class Gates(Protocol):
    """What keeps programs from running (`kernel.rootview.gates.Gates`)."""

    def has(self, path: str) -> bool:
        """Tell whether a program has a gate."""
        ...

    def open(self, path: str) -> None:
        """Let a program run. Raises EnforcementError."""

    def shut(self, path: str) -> None:
        """Let it run no more. Raises EnforcementError."""

    def close(self) -> None:
        """Let it all go."""

    def abandon(self) -> None:
        """In a forked child of the host: let the copy go."""


class Answering(Protocol):
    """What answers the call that waits."""

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer it. None: the kernel decides."""


class Starting:
    """The starts of one sandbox's programs. Thread-safe; what takes a while runs on threads of the supervisor."""

    def __init__(self) -> None:
        #: None where the policy asks about no program, or about none that is there
        self.gates: Gates | None = None
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        #: the call that went on last, until it has ended
        self._under_way: _Call | None = None

    def came(self, tid: int) -> None:
        """Note that a task makes a call: the one before it has ended."""
        with self._lock:
            if self._under_way is not None and self._under_way.tid == tid:
                self._under_way.followed.set()

    def let(self, kernel: Answering, number: int, tid: int, path: str | None) -> None:
        """Let a call go on when it is its turn: with the gate of `path` open, or (None) as the kernel decides.

        It is refused where its gate cannot be opened, or an earlier call is still under way after `_START_S`.
        """
        with self._turn:
            if not self._wait_ended():
                kernel.answer(number, allow=False)
                return
            call = _Call(tid)
            if path is None:
                self._go_on(kernel, number, call, None)
                return
            try:
                assert self.gates is not None
                self.gates.open(path)
            except Exception as error:  # whatever goes wrong, the answer is no
                _log.warning("a program that was allowed does not start: %s: %s", type(error).__name__, error)
                kernel.answer(number, allow=False)
                return
            try:
                self._go_on(kernel, number, call, True)
            finally:
                self.gates.shut(path)

    def _go_on(self, kernel: Answering, number: int, call: _Call, allow: bool | None) -> None:
        with self._lock:
            self._under_way = call
        kernel.answer(number, allow=allow)
        self._wait_ended()

    def _wait_ended(self) -> bool:
        """Wait until the call that went on has come to its end, whichever; False where it has not in time."""
        if (call := self._under_way) is None:
            return True
        until = time.monotonic() + _START_S
        while not call.has_ended():
            if time.monotonic() >= until:
                return False
            call.followed.wait(_LOOK_S)
        with self._lock:
            self._under_way = None
        return True


class _Call:
    """A call that waits, made by a task: whether it has come to its end. A program runs once its memory is laid out."""

    def __init__(self, tid: int) -> None:
        self.tid, self.followed = tid, threading.Event()
        self._process = _process_of(tid)
        self._before = _memory_of(self._process)

    def has_ended(self) -> bool:
        """Tell whether its program runs, it has failed, or its process is gone."""
        if self.followed.is_set():
            return True
        now = _memory_of(self._process)
        if now is None:
            return True
        if now != self._before:  # nothing is laid out while its first address is 0
            return now[0] != 0
        return _rests_elsewhere(self.tid)


def _process_of(tid: int) -> int:
    """Return the process of a task; the task itself where it has gone."""
    with contextlib.suppress(OSError), open(f"/proc/{tid}/status") as file:
        for line in file:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return tid


def _memory_of(pid: int) -> tuple[int, int] | None:
    """Return where a process's code and stack begin, which exec(2) changes; None of one that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            found = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if found[0] in "ZX" else (int(found[23]), int(found[25]))  # proc(5): startcode, startstack


def _rests_elsewhere(tid: int) -> bool:
    """Tell whether a task waits in another call. One that runs may be at its exec still; a name that is gone, too."""
    try:
        with open(f"/proc/{tid}/syscall") as file:
            number = file.read(64).partition(" ")[0].strip()
    except OSError:
        return False
    return number.isdecimal() and number not in _EXECS


#: execve, execveat
_EXECS = frozenset({"x86_64": ("59", "322"), "aarch64": ("221", "281")}.get(os.uname().machine, ()))
