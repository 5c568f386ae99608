"""A guest for the VM tests: a process that evaluates one expression per line and says what came of it."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from pyisolate.kernel.bpf.lsm import BpfLsmEnforcer
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NetRule
from pyisolate.records import KernelRecord

#: Everything a guest needs is imported before it is confined: its policy then speaks of the test's files only.
_LOOP = """
import ctypes, errno, fcntl, json, mmap, os, select, signal, socket, stat, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def raw(number, *args):
    result = libc.syscall(ctypes.c_long(number), *[
        ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action(); os._exit(0)
        except OSError as error:
            os._exit(error.errno)
        finally:
            os._exit(255)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, "") if status > 0 else RuntimeError(status)
def thread(action):
    box = []
    def run():
        try:
            box.append(action())
        except OSError as error:
            box.append(error)
    one = threading.Thread(target=run); one.start(); one.join()
    if isinstance(box[0], OSError):
        raise box[0]
    return box[0]
kept = {}
def serve():
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = ["ok", repr(eval(line, globals()))]
        except OSError as error:
            answer = ["errno", error.errno]
        except BaseException as error:
            answer = ["error", repr(error)]
        print(json.dumps(answer), flush=True)
"""
#: Forks a guest for each pair of descriptors, its stdin and stdout, and tells its number. A guest is reaped when it is
#: asked for: until then its number is no other process's.
_TEMPLATE = """
orders = socket.socket(fileno=int(sys.argv[1]))
while True:
    what, ends, _, _ = socket.recv_fds(orders, 16, 2)
    if not what: break
    if not ends:
        orders.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(int(what), 0)[1]))
        continue
    pid = os.fork()
    if pid == 0:
        orders.close()
        for number, end in enumerate(ends):
            os.dup2(end, number)
            os.close(end)
        sys.stdin, sys.stdout = open(0), open(1, "w")
        serve()
        os._exit(0)
    for end in ends: os.close(end)
    orders.send(b"%d" % pid)
"""

_numbers = itertools.count(1)


class Recorder:
    """Keeps every record, by sandbox."""

    def __init__(self) -> None:
        self.records: dict[str, list[KernelRecord]] = {}
        self.drain: Callable[[], int] = lambda: 0
        self._lock = threading.Lock()

    def __call__(self, record: KernelRecord) -> None:
        with self._lock:
            self.records.setdefault(record.sandbox_id, []).append(record)

    def of(self, sandbox_id: str) -> list[KernelRecord]:
        self.drain()
        with self._lock:
            return list(self.records.get(sandbox_id, ()))


class GuestFailed(AssertionError):
    """The guest's expression raised something other than OSError."""


class Process(Protocol):
    """A guest's process, however it was made."""

    pid: int
    stdin: IO[str]
    stdout: IO[str]

    def end(self) -> int:
        """Kill it, wait for it and return its status."""
        ...


class Started:
    """By a program: in namespaces of its own, or with more descriptors."""

    def __init__(self, cell: list[str], keep: list[int]) -> None:
        command = [*cell, sys.executable, "-I", "-S", "-c", f"{_LOOP}\nserve()"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, pass_fds=keep)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid, self.stdin, self.stdout = self._process.pid, self._process.stdin, self._process.stdout

    def end(self) -> int:
        self._process.kill()
        self._process.communicate()
        return self._process.returncode


class Template:
    """A process that has imported what guests need, and is forked for each: here imports are most of a start."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", f"{_LOOP}{_TEMPLATE}", str(theirs.fileno())]
            nothing = subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=nothing, stdout=nothing, pass_fds=[theirs.fileno()])

    def fork(self) -> Forked:
        read, stdin = os.pipe()
        stdout, write = os.pipe()
        try:
            socket.send_fds(self._orders, [b"fork"], [read, write])
        finally:
            os.close(read)
            os.close(write)
        return Forked(int(self._orders.recv(16)), open(stdin, "w", buffering=1), open(stdout), self.reap)

    def reap(self, pid: int) -> int:
        """Wait for a guest and return its status."""
        self._orders.send(b"%d" % pid)
        return int(self._orders.recv(16))

    def close(self) -> None:
        self._orders.close()
        self._process.wait()


@dataclass
class Forked:
    """From the template."""

    pid: int
    stdin: IO[str]
    stdout: IO[str]
    reap: Callable[[int], int]

    def end(self) -> int:
        os.kill(self.pid, signal.SIGKILL)  # its number is its own until it is reaped
        for end in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):
                end.close()
        return self.reap(self.pid)


@functools.cache
def template() -> Template:
    """Return the one of this session; whoever has the enforcer closes it."""
    return Template()


class Guest:
    def __init__(
        self, lsm: BpfLsmEnforcer, recorder: Recorder, *, cell: list[str] | None = None, keep: list[int] | None = None
    ) -> None:
        self.lsm, self.recorder = lsm, recorder
        self.sandbox_id = f"guest-{next(_numbers)}"
        self._process: Process = Started(cell or [], keep or []) if cell or keep else template().fork()
        self._ended: int | None = None
        assert self._line() == "ready\n"
        self._seen = 0
        self.attached = False

    def _line(self) -> str:
        return self._process.stdout.readline()

    @property
    def pid(self) -> int:
        return self._process.pid

    def confine(self, policy: CompiledPolicy, shadow: CompiledPolicy | None = None) -> None:
        prepared = self.lsm.prepare(policy)
        other = self.lsm.prepare(shadow) if shadow is not None else None
        self.lsm.attach_task(self.pid, self.sandbox_id, prepared, other)
        prepared.close()
        if other is not None:
            other.close()
        self.attached = True

    def does(self, expression: str) -> Any:
        """Evaluate in the guest; return errno (int > 0), or the repr of what came back."""
        self.asks(expression)
        return self.hears(expression)

    def asks(self, expression: str) -> None:
        """Begin to evaluate."""
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()

    def hears(self, expression: str = "") -> Any:
        """Wait for the answer: errno (int > 0), or the repr of what came back."""
        line = self._line()
        if not line:
            raise GuestFailed(f"{expression}: the guest ended with {self._end()}")
        kind, value = json.loads(line)
        if kind == "error":
            raise GuestFailed(f"{expression}: {value}")
        return value

    def allowed(self, expression: str) -> str:
        """Evaluate what must work; no denial may be recorded for it."""
        before = len(self.recorder.of(self.sandbox_id))
        value = self.does(expression)
        after = self.recorder.of(self.sandbox_id)[before:]
        assert isinstance(value, str), f"{expression}: {errno.errorcode.get(value, value)}: {after}"
        assert not after, f"{expression}: worked, but was recorded: {after}"
        return value

    def refused(self, expression: str, number: int = errno.EACCES) -> KernelRecord:
        """Evaluate what must be refused; return the record of it."""
        before = len(self.recorder.of(self.sandbox_id))
        value = self.does(expression)
        after = self.recorder.of(self.sandbox_id)[before:]
        assert value == number, (
            f"{expression}: {value if isinstance(value, str) else errno.errorcode.get(value)}: {after}"
        )
        assert after, f"{expression}: refused, but not recorded"
        return after[-1]

    def new_records(self) -> list[KernelRecord]:
        records = self.recorder.of(self.sandbox_id)[self._seen :]
        self._seen += len(records)
        return records

    def _end(self) -> int:
        if self._ended is None:
            self._ended = self._process.end()
        return self._ended

    def close(self) -> None:
        self._end()
        if self.attached and self.lsm.shared.entries.get(self.sandbox_id) is not None:
            self.lsm.detach(self.sandbox_id)


_RIGHTS = {
    "r": FsRight.READ,
    "w": FsRight.WRITE,
    "c": FsRight.CREATE,
    "d": FsRight.DELETE,
    "m": FsRight.METADATA,
    "x": FsRight.EXEC,
    "X": FsRight.MAP_EXEC,
    "l": FsRight.LIST,
}


def rights(letters: str) -> int:
    return sum(int(_RIGHTS[letter]) for letter in letters)


def policy(
    allow: dict[object, str] | None = None, deny: dict[object, str] | None = None, *net: NetRule, **more: Any
) -> CompiledPolicy:
    """Return a policy of file rules {path: letters} and net rules."""
    paths = sorted({str(path) for path in (allow or {})} | {str(path) for path in (deny or {})})
    allowed = {str(path): letters for path, letters in (allow or {}).items()}
    denied = {str(path): letters for path, letters in (deny or {}).items()}
    rules = tuple(
        FsRule(path=path, allow=rights(allowed.get(path, "")), deny=rights(denied.get(path, "")), text=f"fs: {path}")
        for path in paths
    )
    return CompiledPolicy(**{"name": "test", "version": "test", "fs": rules, "net": net, **more})
