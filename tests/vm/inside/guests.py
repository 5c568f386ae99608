"""A guest for the VM tests: a process that evaluates one expression per line and says what came of it."""

from __future__ import annotations

import errno
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from pyisolate.kernel.bpf.lsm import BpfLsmEnforcer
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NetRule
from pyisolate.records import KernelRecord

#: Everything a guest needs is imported before it is confined: its policy then speaks of the test's files only.
_LOOP = """
import ctypes, errno, fcntl, json, mmap, os, select, signal, socket, stat, struct, sys, tempfile, threading, time
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


class Guest:
    def __init__(
        self, lsm: BpfLsmEnforcer, recorder: Recorder, *, cell: list[str] | None = None, keep: list[int] | None = None
    ) -> None:
        self.lsm, self.recorder = lsm, recorder
        self.sandbox_id = f"guest-{next(_numbers)}"
        command = [*(cell or []), sys.executable, "-I", "-S", "-c", _LOOP]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, pass_fds=keep or ()
        )
        assert self._line() == "ready\n"
        self._seen = 0
        self.attached = False

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def pid(self) -> int:
        return self.process.pid

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
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def hears(self, expression: str = "") -> Any:
        """Wait for the answer: errno (int > 0), or the repr of what came back."""
        line = self._line()
        if not line:
            raise GuestFailed(f"{expression}: the guest ended with {self.process.wait(10)}")
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

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
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
