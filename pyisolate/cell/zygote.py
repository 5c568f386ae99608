"""The zygote: a small, warm, single-threaded process that forks cells on request and reaps them.

Started fresh (`python -I -m pyisolate.cell`), so that nothing of the host's memory is ever in a cell. It never
runs guest code. It ends, and its cells with it, when the supervisor's process ends (a pidfd says so) or closes the
control channel.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import importlib
import os
import resource
import select
import signal
import socket
import traceback
from collections import deque
from typing import NoReturn

import msgspec

from .. import hooks
from ..native import audit, cell_init, process, quiet
from ..native.descriptors import receive
from ..native.result import without_hint
from ..policy.compiled import CompiledPolicy
from . import guest, wire
from .at_fork import AT_FORK
from .confine import AtFork, CellSpec, maps_others, program_of
from .fresh import FreshCells
from .rehearsal import Rehearsal
from .streams import open_streams

MAX_CONTROL_BYTES = 1 << 16
#: The soft RLIMIT_NOFILE that a process has where nothing says otherwise (include/uapi/linux/fs.h, INR_OPEN_CUR).
_OPEN_FILES = 1024
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
    """Fork `count` cells; where `forks`, with the filter that lets them fork without asking the listener."""

    count: int
    forks: bool = False


class Signal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Signal the cell whose guest is `pid`: for a supervisor that may not do so itself."""

    pid: int
    number: int


class Branch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Fork a policy zygote. Its control socket rides along, and a file that holds an encoded `BranchOrder`."""


class BranchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy zygote makes ahead of: the policy, and the hand-out that its standby cells will get, without it."""

    policy: CompiledPolicy
    init: wire.Init


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The zygote is warm. `failed_preloads` could not be imported: (name, why). A policy zygote's pidfd rides along."""

    pid: int
    failed_preloads: tuple[tuple[str, str], ...] = ()


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cell was forked; channel, stdout, stderr and its init's pidfd ride along. Or none was: `error`, `errno`.

    `pid` is the guest's, `init` that of the process above it: whatever runs in the cell is below that one.
    """

    pid: int = 0
    init: int = 0
    forks: bool = False
    error: str = ""
    errno: int | None = None


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cell ended and is reaped, the guest with `pid` and all that it had started.

    `status` is the guest's as wait(2) gives it; times in seconds; `max_rss_bytes` of the largest process.
    """

    pid: int
    status: int
    cpu_s: float
    max_rss_bytes: int


ZygoteMessage = Started | Forked | Exited
ZygoteOrder = Fork | Signal | Branch
_encode = msgspec.msgpack.Encoder().encode


class Zygote:
    """The loop: fork on request, reap, watch the host."""

    def __init__(self, control: socket.socket, start: Start) -> None:
        self._control = control
        self._start = start
        self._host = process.pidfd_open(start.host_pid)
        self._wake_read, self._wake_write = _make_wake()
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        #: by the pid of the init
        self._cells: dict[int, cell_init.Cell] = {}
        #: policy zygotes by their pid
        self._branches: set[int] = set()
        spec = start.spec
        self._maps = spec.clone_flags & process.CLONE_NEWUSER != 0 and maps_others(spec)
        first, count = spec.uid_range or (spec.uid, 0)
        #: users that no cell is, the one freed first in front; the users of cells by the pid of the init
        self._free_uids = deque(range(first, first + count))
        self._uids: dict[int, int] = {}
        self.rehearsal, self._guest = Rehearsal(), guest.Guest()
        #: by whether they let a cell fork
        programs = {forks: program_of(spec, forks=forks) for forks in (False, True)}
        self._fresh = FreshCells(
            self._guest, spec, AtFork(spec, maps=self._maps), programs, self._null, maps=self._maps
        )

    def warm_up(self) -> None:
        """Do what each cell would do for itself. Everything that is to be warm is imported by now."""
        self.rehearsal.warm_up()
        self._guest.settle()

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
        data, descriptors, _ = receive(self._control, MAX_CONTROL_BYTES, 2)
        if not data:
            return False
        order = msgspec.msgpack.decode(data, type=ZygoteOrder)
        if isinstance(order, Signal):
            self._signal(order)
            return True
        if isinstance(order, Branch):
            self._branch(descriptors)
            return True
        for _ in range(order.count):
            self._fork(order.forks)
        return True

    def _signal(self, order: Signal) -> None:
        """Signal a child, whose number no other process gets before it is reaped here."""
        for pid, cell in self._cells.items():
            if cell.guest_pid == order.pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, order.number)

    def end_cells(self) -> None:
        """End every cell and wait for it: only then may what is held for them (links of programs) be let go."""
        killed = []
        for pid in self._cells:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        for pid in killed:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _branch(self, descriptors: list[int]) -> None:
        """Fork a policy zygote. Where that fails its socket is closed, which tells the supervisor."""
        parent = os.getpid()
        try:
            if len(descriptors) == 2 and (pid := os.fork()) == 0:
                self._become_policy_zygote(descriptors[0], descriptors[1], parent)
            self._branches.add(pid)
        except OSError as error:
            os.write(2, f"fork a policy zygote: {error.strerror}\n".encode())
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _become_policy_zygote(self, control: int, given: int, parent: int) -> NoReturn:
        """Be a zygote whose cells find their policy made: as confined as its own zygote, and no guest code in it."""
        status = wire.BROKEN_STATUS
        try:
            process.set_pdeathsig(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            os.setpgid(0, 0)
            process.set_name("pyisolate-policy")
            self._cells, self._branches, self._uids = {}, set(), {}
            self._control.close()
            self._control = socket.socket(fileno=control)
            before = self._wake_read, self._wake_write
            self._wake_read, self._wake_write = _make_wake()
            self._make_ahead(given)
            own = process.pidfd_open(os.getpid())
            self._send(Started(pid=os.getpid()), [own])
            for descriptor in (*before, given, own):
                os.close(descriptor)
            status = self.serve()
        except (BrokenPipeError, ConnectionError):
            status = 0
        except BaseException as error:
            os.write(2, _described(error))
        finally:
            self.end_cells()
            os._exit(status)

    def _make_ahead(self, given: int) -> None:
        found = msgspec.msgpack.decode(os.pread(given, os.fstat(given).st_size, 0), type=BranchOrder)
        self._guest.make_ahead(found.policy, found.init)
        guest.replace_environment(found.init.environment)
        self._fresh.foresee(found.init)
        gc.collect()
        gc.freeze()

    def _fork(self, forks: bool) -> None:
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
            mapped, mapping = os.pipe2(os.O_CLOEXEC) if self._maps else (None, None)
            descriptors += [descriptor for descriptor in (mapped, mapping) if descriptor is not None]
            cell = cell_init.fork(self._start.spec.clone_flags)
            if cell is None:
                if mapping is not None:
                    os.close(mapping)
                self._child(theirs, (out_write, err_write), asked, mapped, forks)
                return
            pidfd = cell.init_pidfd
            descriptors.append(pidfd)
            self._cells[cell.init_pid] = cell
            if mapping is not None:
                self._map(cell)
                os.write(mapping, b"1")
            forked = Forked(pid=cell.guest_pid, init=cell.init_pid, forks=forks)
            self._send(forked, [channel.fileno(), out_read, err_read, pidfd, asked])
        except (BrokenPipeError, ConnectionError):
            raise
        except OSError as error:
            if pidfd >= 0:  # it could not be handed over (unix(7), ETOOMANYREFS): no supervisor would ever use it
                process.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._send(Forked(forks=forks, error=without_hint(error), errno=error.errno), [])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            for one in sockets:
                one.close()

    def _map(self, cell: cell_init.Cell) -> None:
        """Make the cell's user, `spec.uid` to itself, one outside: its own, where there is a range."""
        spec = self._start.spec
        outside = spec.uid
        if spec.uid_range is not None:
            if not self._free_uids:
                raise OSError(errno.EAGAIN, f"all {spec.uid_range[1]} users of cell_uids are taken by living cells")
            outside = self._uids[cell.init_pid] = self._free_uids.popleft()
        process.write_id_maps_of(cell.init_pid, (spec.uid, outside), (spec.gid, spec.gid))

    def _child(
        self, channel: socket.socket, outputs: tuple[int, int], asked: int, mapped: int | None, forks: bool
    ) -> None:
        """Become a cell. Never returns into the zygote's loop."""
        status = wire.BROKEN_STATUS
        try:
            rehearse = self.rehearsal.play
            status = self._fresh.become(channel.fileno(), outputs, asked, mapped, rehearse, forks=forks)
        except BaseException as error:
            os.write(2, _described(error))
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self._cells or self._branches:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self._cells.clear()
                self._branches.clear()
                return
            if pid == 0:
                return
            self._branches.discard(pid)
            if (cell := self._cells.pop(pid, None)) is None:
                continue
            guest_status, max_rss_bytes = cell.ended()
            if (uid := self._uids.pop(pid, None)) is not None:
                self._free_uids.append(uid)
            exited = Exited(
                pid=cell.guest_pid,
                status=status if guest_status is None else guest_status,
                cpu_s=usage.ru_utime + usage.ru_stime,
                max_rss_bytes=max_rss_bytes,
            )
            self._send(exited, [])

    def _send(self, message: ZygoteMessage, descriptors: list[int]) -> None:
        data = _encode(message)
        if descriptors:
            socket.send_fds(self._control, [data], descriptors)
        else:
            self._control.send(data)


def _make_wake() -> tuple[int, int]:
    """Make the pipe that the end of a child writes to; return its two ends."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    process.wake_on(signal.SIGCHLD, ends[1])
    return ends


def _described(error: BaseException) -> bytes:
    """Return a traceback without source lines: a guest may not read those, and would be reported for it."""
    places = [f"  {frame.f_code.co_filename}:{line}\n" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{''.join(places)}{type(error).__name__}: {error}\n".encode("utf-8", "backslashreplace")


def _become_unprivileged(spec: CellSpec) -> None:
    """Drop root for good. What is left, where cells are other users, is to map them."""
    keep = (process.CAP_SETUID, process.CAP_SETGID) if maps_others(spec) else ()
    process.become(spec.zygote_uid, spec.gid, keep=keep)


def _preload(names: tuple[str, ...]) -> list[tuple[str, str]]:
    failed = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append((name, f"{type(error).__name__}: {error}"))
    return failed


def _lowered(wanted: int) -> int:
    """Move what was inherited to the lowest numbers, and return the new one of descriptor `wanted`.

    A cell's table has room for the highest number of its zygote (proc(5), FDSize), and by that room its host tells
    whether the table can have been full: a host with many open files would hand its own high numbers on.
    """
    for descriptor in sorted(map(int, os.listdir("/proc/self/fd"))):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # that of the listing itself
                lower = os.dup(descriptor)
                os.close(max(lower, descriptor))
                wanted = min(lower, descriptor) if descriptor == wanted else wanted
    return wanted


def _have_descriptors() -> None:
    """Have the usual soft limit on open files: a host that was short of them at the start is not so for ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < (usual := min(_OPEN_FILES, hard)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, hard))


def main(descriptor: int) -> int:
    """Run a zygote on the control socket `descriptor`."""
    process.reset_signals()
    _have_descriptors()
    quiet.report_sizes()
    control = socket.socket(fileno=_lowered(descriptor))
    control.set_inheritable(False)
    hooks.prewarm()
    _preload(WARM_MODULES)  # while the host proves what the kernel enforces
    if not (first := control.recv(MAX_CONTROL_BYTES)):
        return 0  # its start has failed
    start = msgspec.msgpack.decode(first, type=Start)
    if start.spec.every_file_call:
        quiet.never_files()
    process.set_name("pyisolate-zygote")
    for name in ("LD_PRELOAD", "LD_BIND_NOW"):  # for this process alone: programs of a guest could not open the library
        os.environ.pop(name, None)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    failed = _preload(start.preload)
    repr(getattr(builtins, "license", None))  # it looks for its text where it is first shown, as all builtins may be
    AT_FORK.stop()
    open_streams()
    if start.drop_privileges:
        _become_unprivileged(start.spec)
    zygote = Zygote(control, start)
    zygote.warm_up()
    gc.collect()
    gc.freeze()
    zygote._send(Started(pid=os.getpid(), failed_preloads=tuple(failed)), [])  # noqa: SLF001
    try:
        return zygote.serve()
    except (BrokenPipeError, ConnectionError):
        return 0
    finally:
        zygote.end_cells()
