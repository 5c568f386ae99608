"""The zygote: a small, warm, single-threaded process that forks cells on request and reaps them.

Started fresh (`python -I -m pyisolate.cell.zygote`), so that nothing of the host's memory is ever in a cell. It never
runs guest code. It ends, and its cells with it, when the supervisor's process ends (a pidfd says so) or closes the
control channel.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback

import msgspec

from .. import hooks
from ..native import audit, process
from . import guest, wire
from .confine import CellSpec, Steps, confine_at_fork, load_filter

MAX_CONTROL_BYTES = 1 << 16
#: Standard modules that most guests import; warm here, they cost a cell nothing (copy on write).
WARM_MODULES = (
    *("abc", "ast", "base64", "bisect", "codecs", "collections.abc", "contextlib", "copy", "csv"),
    *("dataclasses", "datetime", "decimal", "encodings.ascii", "encodings.idna", "encodings.latin_1"),
    *("enum", "fractions", "functools", "glob", "hashlib", "heapq", "inspect", "itertools"),
    *("json", "linecache", "locale", "math", "operator", "pathlib", "pickle", "pprint", "queue", "random", "re"),
    *("reprlib", "secrets", "selectors", "shutil", "signal", "socket", "statistics", "string", "struct"),
    *("subprocess", "tempfile", "textwrap", "threading", "tokenize", "traceback", "types", "typing"),
    *("unicodedata", "urllib.parse", "uuid", "warnings", "weakref", "zlib"),
)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """First control message to the zygote: what to preload, whom to become, what every cell is like."""

    host_pid: int
    preload: tuple[str, ...]
    spec: CellSpec
    drop_privileges: bool


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Fork `count` cells."""

    count: int


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The zygote is warm. `failed_preloads` could not be imported: (name, why)."""

    pid: int
    failed_preloads: tuple[tuple[str, str], ...] = ()


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cell was forked; channel, stdout, stderr and pidfd ride along. Or none was: `error`."""

    pid: int = 0
    error: str = ""


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cell ended and is reaped. `status` is wait(2)'s; times in seconds, `max_rss_bytes` of the largest process."""

    pid: int
    status: int
    cpu_s: float
    max_rss_bytes: int


ZygoteMessage = Started | Forked | Exited
_encode = msgspec.msgpack.Encoder().encode


class Zygote:
    """The loop: fork on request, reap, watch the host."""

    def __init__(self, control: socket.socket, start: Start) -> None:
        self._control = control
        self._start = start
        self._host = process.pidfd_open(start.host_pid)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._children: set[int] = set()
        self.rehearsal = guest.Rehearsal()

    def serve(self) -> int:
        """Loop until the host is gone; returns the exit status."""
        poller = select.poll()
        for descriptor in (self._control.fileno(), self._wake_read, self._host):
            poller.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _events in poller.poll():
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                elif descriptor == self._host or not self._command():
                    return 0

    def _command(self) -> bool:
        data = self._control.recv(MAX_CONTROL_BYTES)
        if not data:
            return False
        for _ in range(msgspec.msgpack.decode(data, type=Fork).count):
            self._fork()
        return True

    def end_cells(self) -> None:
        """End every cell and wait for it: only then may what is held for them (links of programs) be let go."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _fork(self) -> None:
        """Fork one cell and hand its ends to the supervisor; say so where the machine has run out of something."""
        sockets: tuple[socket.socket, ...] = ()
        descriptors: list[int] = []
        pidfd = -1
        try:
            sockets = channel, theirs = socket.socketpair()
            out_read, out_write = os.pipe2(os.O_CLOEXEC)
            descriptors += (out_read, out_write)
            err_read, err_write = os.pipe2(os.O_CLOEXEC)
            descriptors += (err_read, err_write)
            asked = audit.make_asked()
            descriptors.append(asked)
            pid, pidfd = process.clone_cell(self._start.spec.clone_flags)
            if pid == 0:
                self._child(theirs, out_write, err_write, asked)
            descriptors.append(pidfd)
            self._children.add(pid)
            self._send(Forked(pid=pid), [channel.fileno(), out_read, err_read, pidfd, asked])
        except (BrokenPipeError, ConnectionError):
            raise
        except OSError as error:
            if pidfd >= 0:  # it could not be handed over (unix(7), ETOOMANYREFS): nobody would ever use it
                process.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._send(Forked(error=f"{error}"), [])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            for one in sockets:
                one.close()

    def _child(self, channel: socket.socket, out_write: int, err_write: int, asked: int) -> None:
        """Become a cell. Never returns into the zygote's loop."""
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(self._null, 0)
            os.dup2(out_write, 1)
            os.dup2(err_write, 2)
            steps = Steps()
            audit.set_asked(asked)
            # all others are closed, so no guest can write code into the page's file and map it executable
            confine_at_fork(self._start.spec, {0, 1, 2, channel.fileno()}, steps)
            status = guest.main(
                channel,
                self.rehearsal,
                lambda: load_filter(
                    self._start.spec,
                    channel,
                    steps,
                    lambda: wire.encode(wire.Warm(steps=tuple(steps.done), failed=tuple(steps.failed))),
                ),
            )
        except BaseException as error:
            os.write(2, _described(error))
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self._children.clear()
                return
            if pid == 0:
                return
            self._children.discard(pid)
            cpu_s = usage.ru_utime + usage.ru_stime
            self._send(Exited(pid=pid, status=status, cpu_s=cpu_s, max_rss_bytes=usage.ru_maxrss << 10), [])

    def _send(self, message: ZygoteMessage, descriptors: list[int]) -> None:
        data = _encode(message)
        if descriptors:
            socket.send_fds(self._control, [data], descriptors)
        else:
            self._control.send(data)


def _described(error: BaseException) -> bytes:
    """Return a traceback without source lines: to read those is refused to a guest, and would be told as its doing."""
    places = [f"  {frame.f_code.co_filename}:{line}\n" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{''.join(places)}{type(error).__name__}: {error}\n".encode("utf-8", "backslashreplace")


def _become_unprivileged(spec: CellSpec) -> None:
    """Drop root for good; /proc/self must stay ours for the identity maps, hence dumpable again (prctl(2))."""
    os.setgroups([])
    os.setresgid(spec.gid, spec.gid, spec.gid)
    os.setresuid(spec.uid, spec.uid, spec.uid)
    process.set_dumpable(True)


def _preload(names: tuple[str, ...]) -> list[tuple[str, str]]:
    failed = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append((name, f"{type(error).__name__}: {error}"))
    return failed


def main(descriptor: int) -> int:
    """Run a zygote on the control socket `descriptor`."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    start = msgspec.msgpack.decode(control.recv(MAX_CONTROL_BYTES), type=Start)
    process.set_name("pyisolate-zygote")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    hooks.prewarm()
    _preload(WARM_MODULES)
    failed = _preload(start.preload)
    guest.open_streams()
    if start.drop_privileges:
        _become_unprivileged(start.spec)
    zygote = Zygote(control, start)
    zygote.rehearsal.warm_up()
    gc.collect()
    gc.freeze()
    zygote._send(Started(pid=os.getpid(), failed_preloads=tuple(failed)), [])
    try:
        return zygote.serve()
    except (BrokenPipeError, ConnectionError):
        return 0
    finally:
        zygote.end_cells()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
