"""The zygote: a small, warm, single-threaded process that forks cells on request and reaps them.

Started fresh (`python -I -m pyisolate.cell`), so that nothing of the host's memory is ever in a cell. It never
runs guest code. It ends, and its cells with it, when the supervisor's process ends (a pidfd says so) or closes the
control channel.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import struct
import traceback
from typing import NoReturn

import msgspec

from .. import hooks
from ..native import holes, networks, process, quiet
from ..native.result import without_hint
from ..native.zygote_loop import Frame, Frames, Left, Users, ZygoteLoop
from . import guest, own_builtins, wire
from .at_fork import AT_FORK
from .confine import AtFork, CellSpec, maps_others, program_of
from .fresh import FreshCells
from .rehearsal import Rehearsal
from .streams import open_streams
from .zygote_messages import (
    MAX_CONTROL_BYTES,
    Branch,
    BranchOrder,
    Exited,
    Fork,
    Forked,
    Signal,
    Start,
    Started,
    ZygoteMessage,
    ZygoteOrder,
)

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

_POLICY_ZYGOTE = "pyisolate-policy"
_encode = msgspec.msgpack.Encoder().encode


class Zygote:
    """The loop in C (fork on request, reap, watch the host), and what that leaves to Python."""

    def __init__(self, control: socket.socket, start: Start) -> None:
        self._control = control
        self._start = start
        self._wake_read, self._wake_write = _make_wake()
        spec = start.spec
        maps = spec.clone_flags & process.CLONE_NEWUSER != 0 and maps_others(spec)
        null, host = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), process.pidfd_open(start.host_pid)
        self._loop = ZygoteLoop(
            (control.fileno(), self._wake_read, host),
            spec.clone_flags,
            Users(spec.uid, spec.gid, spec.uid_range or (0, 0), maps),
            frames(),
        )
        self.rehearsal, self._guest = Rehearsal(), guest.Guest()
        #: by whether they let a cell fork
        programs = {forks: program_of(spec, forks=forks) for forks in (False, True)}
        self._fresh = FreshCells(self._guest, spec, AtFork(spec, maps=maps), programs, null, maps=maps)

    def warm_up(self) -> None:
        """Do what each cell would do for itself. Everything that is to be warm is imported by now."""
        self.rehearsal.warm_up()
        self._guest.settle()

    def serve(self) -> int:
        """Loop until the host is gone; returns the exit status."""
        self._loop.begin(self._fresh.starts)
        while (left := self._loop.run()) is not Left.GONE:
            if left is Left.GUEST:
                self._be_guest()
            if left is Left.FAILED:
                self._tell_failed()
            else:
                self._command(*self._loop.order)
        return 0

    def _command(self, data: bytes, descriptors: list[int]) -> None:
        order = msgspec.msgpack.decode(data, type=ZygoteOrder)
        if isinstance(order, Signal):
            self._loop.signal(order.pid, order.number)
        elif isinstance(order, Branch):
            self._branch(descriptors)
        else:
            self._loop.fork(order.count, forks=order.forks)

    def end_cells(self) -> None:
        """End every cell and wait for it: only then may what is held for them (links of programs) be let go."""
        self._loop.end_cells()

    def _branch(self, descriptors: list[int]) -> None:
        """Fork a policy zygote. Where that fails its socket is closed, which tells the supervisor."""
        parent = os.getpid()
        try:
            if len(descriptors) == 2 and os.fork() == 0:
                self._become_policy_zygote(descriptors[0], descriptors[1], parent)
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
            process.set_name(_POLICY_ZYGOTE)
            self._control.close()
            self._control = socket.socket(fileno=control)
            before = self._wake_read, self._wake_write
            self._wake_read, self._wake_write = _make_wake()
            self._loop.restart(control, self._wake_read)
            self._make_ahead(given)
            own = process.pidfd_open(os.getpid())
            self._send(Started(pid=os.getpid()), [own])
            for descriptor in (*before, given, own):
                os.close(descriptor)
            _stand_still()
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
        if self._fresh.opened:
            self.rehearsal.settle(self._guest, found.init)
            process.set_name(_POLICY_ZYGOTE)

    def _tell_failed(self) -> None:
        """Say that a cell could not be made: the machine has run out of something."""
        try:
            self._loop.check_made()
        except OSError as error:
            self._send(Forked(forks=self._loop.forks, error=without_hint(error), errno=error.errno), [])

    def _be_guest(self) -> NoReturn:
        """Go on as a cell. Never returns into the zygote's loop."""
        status = wire.BROKEN_STATUS
        try:
            status = self._fresh.go_on(self._loop.came, self.rehearsal.play, forks=self._loop.forks)
        except BaseException as error:
            os.write(2, _described(error))
        finally:
            os._exit(status)

    def _send(self, message: ZygoteMessage, descriptors: list[int]) -> None:
        data = _encode(message)
        if descriptors:
            socket.send_fds(self._control, [data], descriptors)
        else:
            self._control.send(data)


def frames() -> Frames:
    """Return the messages about cells, encoded ahead with numbers that C replaces."""
    ids, status, cpu_s, size = (0xC1F0A1B2, 0xC1F0A3B4), 0xC1F0A5B6, 2.0**0.5, 0xC1F0A7B8C9DAEBFC
    forked = [Forked(pid=ids[0], init=ids[1], forks=forks) for forks in (False, True)]
    exited = Exited(pid=ids[0], status=status, cpu_s=cpu_s, max_rss_bytes=size)
    marks = [number.to_bytes(4, "big") for number in (*ids, status)]
    return Frames(
        (_frame(Fork(count=0x7D), [b"\x7d"]), _frame(Fork(count=0x7D, forks=True), [b"\x7d"])),
        (_frame(forked[0], marks[:2]), _frame(forked[1], marks[:2])),
        _frame(exited, [marks[0], marks[2], struct.pack(">d", cpu_s), size.to_bytes(8, "big")]),
    )


def _frame(message: ZygoteMessage | ZygoteOrder, marks: list[bytes]) -> Frame:
    data = _encode(message)
    assert all(data.count(mark) == 1 for mark in marks)
    return Frame(data, tuple(map(data.index, marks)))


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


def _use_networks_again(spec: CellSpec) -> None:
    """Let cells have the network namespaces of those that have ended, where the filter leaves only sockets there."""
    if not spec.seccomp_program:
        return
    cells = networks.Cells(spec.clone_flags, spec.uid, spec.gid, spec.uid_range or (0, 0), maps_others(spec))
    networks.begin(cells, os.geteuid())


def _stand_still() -> None:
    """Leave what is made as it is: the collector is not to write to it, and what cells make is to lie together."""
    gc.collect()
    gc.freeze()
    holes.fill()


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
    _use_networks_again(start.spec)
    zygote = Zygote(control, start)
    zygote.warm_up()
    own_builtins.end()
    zygote._send(Started(pid=os.getpid(), failed_preloads=tuple(failed)), [])  # noqa: SLF001
    _stand_still()
    gc.enable()
    try:
        return zygote.serve()
    except (BrokenPipeError, ConnectionError):
        return 0
    finally:
        zygote.end_cells()
