"""Programs of one sandbox that start, one at a time, where its host is asked about some of them.

Each waits at the listener. A yes opens the gate of its program, the call goes on, and the gate is shut before any other
call goes on. Equal calls that wait have one answer, and start in turn. The file that runs is the one that has the gate,
whatever the guest's memory says by then; another one that it names instead is refused by its own gate, or granted. A
guest decides how long that takes: all of it is one thread's work, for one sandbox, and a call that was given up takes
no turn and opens nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from ..kernel.rootview.gates import Gates
from ..kernel.seccomp.filter import syscall_name
from ..records import Asked, CallStage

_log = logging.getLogger("pyisolate.sandbox.starting")
#: How long a call may take from when it goes on until its program runs (seconds): the loader is read from a disk.
_START_S = 20.0
#: The processor time that exec(2) takes before it lays out memory, at most (clock ticks): of one that failed, the rest
#: of the task is the guest's own code.
_EXEC_TICKS = os.sysconf("SC_CLK_TCK") // 4
#: From one look at a call that went on to the next, at first and at most (seconds).
_LOOK_S, _LOOK_MOST_S = 0.0005, 0.01
#: Steps that wait for their turn. The listener lets 32 calls of a sandbox wait; more have been given up, and go.
_MOST_QUEUED = 64


class Waiting(Protocol):
    """Where calls wait."""

    def answer(self, number: int, *, allow: bool | None) -> None:
        """Answer one. None: the kernel decides."""

    def stage(self, call: int) -> CallStage:
        """Tell where a call is. Never waits."""
        ...


class Starting:
    """The starts of one sandbox's programs. Thread-safe; steps run on one thread of the supervisor, one at a time."""

    def __init__(
        self, start_call: Callable[[Callable[[], None]], None], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        #: None where the policy asks about no program, or about none that is there
        self.gates: Gates | None = None
        self._start_call, self._now = start_call, now
        self._lock = threading.Lock()
        self._queued: deque[_Step] = deque()
        self._serving = False
        #: the call that went on last, until it has ended
        self._under_way: _Call | None = None

    def came(self, tid: int) -> None:
        """Note that a task makes a call: the one before it has ended."""
        with self._lock:
            if self._under_way is not None and self._under_way.tid == tid:
                self._under_way.followed.set()

    def add(self, kernel: Waiting, asked: Asked, work: Callable[[], None], *, put: bool) -> None:
        """Do something about a call in its turn, if it waits by then; `put`: the host was asked, and allows it.

        Never waits. Refused without room or a thread: a call that went on out of its turn could meet an open gate.
        """
        refused, dropped, start = [_Step(kernel, asked, work, put)], list[_Step](), False
        with self._lock:
            if len(self._queued) >= _MOST_QUEUED:
                queued, self._queued = self._queued, deque()
                for one in queued:
                    (self._queued if one.waits() else dropped).append(one)
            if len(self._queued) < _MOST_QUEUED:
                self._queued.extend(refused)
                refused, start, self._serving = [], not self._serving, True
        try:
            if start:
                self._start_call(self._serve)
        except RuntimeError:  # no thread
            with self._lock:
                refused, self._serving = list(self._queued), False
                self._queued.clear()
        for one in refused:
            one.refuse()
        for one in dropped:
            one.drop()

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._queued:
                    self._serving = False
                    return
                step = self._queued.popleft()
            try:
                step.do()
            except Exception:  # of the answer itself: the listener answers what has waited for too long
                _log.exception("a program's call has no answer yet")

    def let(self, kernel: Waiting, asked: Asked, path: str | None, *, put: bool) -> None:
        """Let a call go on: with the gate of `path` open, or (None) as the kernel decides. A step's work.

        It is refused where its gate cannot be opened, or an earlier call is still under way after `_START_S`.
        """
        if not self._wait_ended():
            kernel.answer(asked.number, allow=False)
            return
        call = _Call(kernel, asked, self._now() + _START_S)
        if not call.waits():  # as a step that is dropped
            kernel.answer(asked.number, allow=True if put else None)
            return
        if path is None:
            self._go_on(kernel, asked.number, call, None)
            return
        try:
            assert self.gates is not None
            self.gates.open(path)
        except Exception as error:  # whatever goes wrong, the answer is no
            _log.warning("a program that was allowed does not start: %s: %s", type(error).__name__, error)
            kernel.answer(asked.number, allow=False)
            return
        try:
            self._go_on(kernel, asked.number, call, True)
        finally:
            self.gates.shut(path)

    def _go_on(self, kernel: Waiting, number: int, call: _Call, allow: bool | None) -> None:
        with self._lock:
            self._under_way = call
        kernel.answer(number, allow=allow)
        self._wait_ended()

    def _wait_ended(self) -> bool:
        """Wait until the call that went on has come to its end, whichever; False where it has not in its time."""
        if (call := self._under_way) is None:
            return True
        pause = _LOOK_S
        while not call.has_ended():
            if self._now() >= call.until:
                return False
            call.followed.wait(pause)
            pause = min(pause * 1.25, _LOOK_MOST_S)
        with self._lock:
            self._under_way = None
        return True


class _Step(msgspec.Struct, frozen=True):
    """What is to be done about a call."""

    kernel: Waiting
    asked: Asked
    work: Callable[[], None]
    put: bool

    def waits(self) -> bool:
        """Tell whether its call still does."""
        return self.kernel.stage(self.asked.call) == "waits"

    def do(self) -> None:
        """Do it, if the call still waits."""
        if not self.waits():
            self.drop()
            return
        try:
            self.work()
        except Exception:  # whatever goes wrong, the answer is no
            _log.exception("a program does not start")
            self.refuse()

    def refuse(self) -> None:
        """Answer no."""
        self.kernel.answer(self.asked.number, allow=False)

    def drop(self) -> None:
        """Let go of a call that was given up: answered as any is, which lets nothing go on."""
        self.kernel.answer(self.asked.number, allow=True if self.put else None)


class _Call:
    """A call that waits, made by a task: whether it has come to its end. A program runs once its memory is laid out."""

    def __init__(self, kernel: Waiting, asked: Asked, until: float) -> None:
        self.tid, self.followed = asked.tid, threading.Event()
        self.until = until
        self._kernel, self._call = kernel, asked.call
        self._process = _process_of(self.tid)
        self._before = _memory_of(self._process)
        self._task, self._used = self.tid, _state_of(self.tid)[1]

    def waits(self) -> bool:
        """Tell whether it waits at the listener, neither answered nor given up."""
        return self._kernel.stage(self._call) == "waits"

    def has_ended(self) -> bool:
        """Tell whether it was given up or refused, its program runs, it has failed, or its process is gone."""
        if self.followed.is_set():
            return True
        if (stage := self._kernel.stage(self._call)) != "went_on":
            return stage == "gone"
        now = _memory_of(self._process)
        if now is None:
            return True
        if now != self._before:  # nothing is laid out while its first address is 0
            return now[0] != 0
        return self._has_left()

    def _has_left(self) -> bool:
        """Tell whether its task is not in exec(2) any more, though its memory is what it was: the call has failed."""
        state, used = _state_of(self._task)
        if not state and self._task != self._process:  # it has ended, or has its process's number, as exec(2) gives it
            self._task = self._process
            state, self._used = _state_of(self._task)
            used = self._used
        return state in ("T", "t") or used - self._used > _EXEC_TICKS or _rests_elsewhere(self._task)


def _state_of(tid: int) -> tuple[str, int]:
    """Return a task's state and the processor time that it has used (clock ticks); "" and 0 of one that has gone."""
    try:
        with open(f"/proc/{tid}/task/{tid}/stat") as file:
            found = file.read().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return found[0], int(found[11]) + int(found[12])  # proc(5): state, utime, stime


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
    """Tell whether a task waits in another call, or in none (-1). One that runs may be at its exec still."""
    try:
        with open(f"/proc/{tid}/syscall") as file:
            number = file.read(64).partition(" ")[0].strip()
    except OSError:
        return False
    return number == "-1" or (number.isdecimal() and syscall_name(int(number)) not in ("execve", "execveat"))
