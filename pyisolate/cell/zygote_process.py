"""The supervisor's side of zygotes: their processes, control sockets, and the proof that their cells can be ended."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from ..errors import SandboxError
from ..native import interpreter, process, quiet
from ..native.descriptors import receive
from ..policy.compiled import CompiledPolicy
from .confine import CellSpec
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
)

_log = logging.getLogger("pyisolate.pool")
_decode = msgspec.msgpack.Decoder(ZygoteMessage).decode
#: A zygote that has not come up by then is broken (seconds). A preload may be slow.
START_TIMEOUT_S = 60.0
#: A policy zygote is forked warm, and has only its policy to decode.
_BRANCH_TIMEOUT_S = 10.0
#: Until a cell that was forked and killed for proof is reaped (seconds); it takes some milliseconds.
_PROOF_S = 5.0
#: For the cells of a zygote that is gone to end, where this process has to reap them (seconds).
_ORPHANS_S = 1.0
#: What comes with a forked cell: channel, stdout, stderr, the init's pidfd, the page in which its hooks ask.
FORKED_DESCRIPTORS = 5


class ZygoteError(SandboxError):
    """The zygote could not be started, or could not fork a cell."""


class PoolSettings(msgspec.Struct, frozen=True):
    """What a pool keeps: `size` warm cells, forked from a zygote with `preload` imported."""

    size: int
    preload: tuple[str, ...]
    spec: CellSpec
    drop_privileges: bool
    environment: dict[str, str]
    #: descriptors that the zygote holds until its last cell is gone: links of programs that decide for them
    held: tuple[int, ...] = ()
    #: the interpreter of the zygote, and so of its cells; and the libraries that are put before its C library, by name
    python: str = sys.executable
    libraries: dict[str, str | None] | None = None
    #: returns the settings that a zygote starts with, where they are not known before the first one does
    complete: Callable[[PoolSettings], PoolSettings] | None = None


class BegunZygote:
    """A zygote that imports while its supervisor still proves what the kernel enforces: the rest it learns later."""

    def __init__(self, settings: PoolSettings) -> None:
        self.environment = _environment(settings)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.process = interpreter.start(
                ["-m", "pyisolate.cell", str(theirs.fileno())],
                [theirs.fileno(), *settings.held],
                self.environment,
                program=settings.python,
            )
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        self._taken = False

    def take(self, settings: PoolSettings) -> BegunZygote:
        """Return it, or one begun anew where `settings` need other libraries; `stop` does nothing from then on."""
        if self.environment != _environment(settings):
            self.stop()
            return BegunZygote(settings)
        self._taken = True
        return self

    def stop(self) -> None:
        """End it, unless it was taken."""
        if not self._taken:
            self._taken = True
            self.process.kill()
            self.control.close()
            self.process.wait()


def _environment(settings: PoolSettings) -> dict[str, str]:
    """Return the zygote's environment, with what the dynamic loader is to do (ld.so(8)).

    It finds every function at the start, which each cell would do again in pages of its own, and it puts the quiet
    file calls and what is reported (preload/lookups.c, limits.c) before the C library's.
    """
    of_python = settings.libraries or {"_quiet": quiet.library(), "_reports": quiet.library("_reports")}
    quiet_calls = of_python["_quiet"] if settings.spec.quiet_calls else None
    reports = of_python["_reports"] if settings.spec.reports else None
    libraries = ":".join(one for one in (quiet_calls, reports) if one is not None)
    return settings.environment | {"LD_BIND_NOW": "1"} | ({"LD_PRELOAD": libraries} if libraries else {})


class ZygoteControl:
    """What every zygote is asked over its control socket."""

    control: socket.socket
    #: why this process cannot end a cell, by itself or through the zygote; empty where it can
    cannot_kill = ""
    #: the policy for which it makes everything ahead; None: its cells serve any
    made_for: CompiledPolicy | None = None

    def signal(self, pid: int, number: int) -> None:
        """Have the zygote signal the cell whose guest is `pid`; nothing where the zygote is gone, and its cells too."""
        with contextlib.suppress(OSError):
            self.control.send(msgspec.msgpack.encode(Signal(pid=pid, number=number)))

    def fork(self, count: int, *, forks: bool = False) -> None:
        """Ask for `count` more cells, which may fork where `forks`.

        Raises ZygoteError when the zygote is gone, BlockingIOError while it is stuck.
        """
        try:
            self.control.send(msgspec.msgpack.encode(Fork(count=count, forks=forks)))
        except BlockingIOError:
            raise
        except OSError as error:
            raise ZygoteError(f"fork cell: the zygote is gone ({error.strerror})") from error

    def receive(self) -> tuple[ZygoteMessage, list[int]] | None:
        """Return one message and its descriptors; None at end of file. Raises BlockingIOError when there is none."""
        data, descriptors, _ = receive(self.control, MAX_CONTROL_BYTES, 8)
        if not data:
            return None
        return _decode(data), descriptors


class ZygoteProcess(ZygoteControl):
    """One running zygote and its control socket."""

    def __init__(self, settings: PoolSettings, begun: BegunZygote | None = None) -> None:
        settings = settings if settings.complete is None else settings.complete(settings)
        begun = BegunZygote(settings) if begun is None else begun.take(settings)
        self._process, self.control = begun.process, begun.control
        start = Start(
            host_pid=os.getpid(),
            preload=settings.preload,
            spec=settings.spec,
            drop_privileges=settings.drop_privileges,
        )
        self.failed_preloads: tuple[tuple[str, str], ...] = ()
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended at its imports: its status is read below
                self.control.send(msgspec.msgpack.encode(start))
            self._wait_started()
            self.cannot_kill = self._prove_kill()
            self.control.setblocking(False)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        return self._process.pid

    def _wait_started(self) -> None:
        self.control.settimeout(START_TIMEOUT_S)
        try:
            data = self.control.recv(MAX_CONTROL_BYTES)
        except ConnectionResetError:  # it ended and had not read what was sent
            data = b""
        except OSError as error:
            raise ZygoteError(f"start zygote: no answer: {error}") from error
        if not data:
            status = self._process.wait(timeout=5)
            raise ZygoteError(
                f"start zygote: it ended with status {status} before it was warm",
                hint="its traceback is on this process's stderr; a module in preload=[...] may crash on import",
            )
        message = _decode(data)
        assert isinstance(message, Started)
        self.failed_preloads = message.failed_preloads

    def _prove_kill(self) -> str:
        """Have a cell forked and end it; return why that failed, or nothing. Falls back on the zygote's kill(2)."""
        self.control.settimeout(_PROOF_S)
        self.fork(1)
        received = self.receive()
        if received is None or not isinstance(received[0], Forked):
            raise ZygoteError("start zygote: it ended while it forked its first cell")
        forked, descriptors = received[0], received[1]
        try:
            if forked.error or len(descriptors) != FORKED_DESCRIPTORS:
                return ""  # a shortage, which the pool meets again and tells
            try:
                process.pidfd_send_signal(descriptors[3], signal.SIGKILL)
                refused = ""
            except OSError as error:
                refused = f"pidfd_send_signal(2): {error.strerror}"
                self.signal(forked.pid, signal.SIGKILL)
            try:
                ended = self.receive()
            except TimeoutError:
                refused = refused or "SIGKILL by pidfd_send_signal(2) ended no cell"
                return f"{refused}; neither did the zygote's kill(2) within {_PROOF_S} s"
            if ended is None or not isinstance(ended[0], Exited):
                raise ZygoteError("start zygote: it ended with its first cell")
            return ""
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def stop(self) -> None:
        """End the zygote (its cells die with it) and reap it."""
        self.control.close()
        if self._process.poll() is None:
            with contextlib.suppress(PermissionError):  # it ends by itself now that the socket is closed
                self._process.send_signal(signal.SIGKILL)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            _log.error("zygote %d does not die", self._process.pid)
            return
        _reap_orphans(self._process.pid)


class PolicyZygote(ZygoteControl):
    """A zygote that another one has forked for a policy. Its cells find broker and hooks made; it confines no more.

    What it makes ahead is the guest's side, and no boundary: at the hand-out of each of its cells the supervisor sends
    its own tables for the kernel, as ever.
    """

    def __init__(self, parent: ZygoteProcess, given: BranchOrder) -> None:
        """Have it forked; returns when it is ready. Raises ZygoteError, and OSError of this process's own."""
        self.made_for, self.cannot_kill = given.policy, parent.cannot_kill
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pidfd, self.pid = -1, 0
        try:
            with theirs:
                self._ask(parent, theirs, given)
            self.control.settimeout(_BRANCH_TIMEOUT_S)
            received = self.receive()
            if received is None or not isinstance(received[0], Started) or len(received[1]) != 1:
                raise ZygoteError("fork a policy zygote: it ended before it was ready")
            self.pid, self._pidfd = received[0].pid, received[1][0]
            self.control.setblocking(False)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError) and not isinstance(error, ZygoteError):
                raise ZygoteError(f"fork a policy zygote: {error}") from error
            raise

    @staticmethod
    def _ask(parent: ZygoteProcess, theirs: socket.socket, given: BranchOrder) -> None:
        descriptor = os.memfd_create("pyisolate-policy", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(msgspec.msgpack.encode(given))
            socket.send_fds(parent.control, [msgspec.msgpack.encode(Branch())], [theirs.fileno(), descriptor])

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it (its cells die with it), and wait until it has ended. Idempotent."""
        self.control.close()
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ends by itself: the socket is closed
            process.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(timeout_s * 1000):
            _log.error("zygote %d does not die", self.pid)
        self.abandon()
        _reap_orphans(self.pid)

    def abandon(self) -> None:
        """Close what this process holds of it."""
        self.control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _reap_orphans(group: int) -> None:
    """Reap the cells that a zygote left, which are in its process group.

    Orphans go to process 1 of the namespace or to a subreaper, and the host is either in many a container. Anywhere
    else they are no children of this process, and this returns at once.
    """
    deadline = time.monotonic() + _ORPHANS_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is None:
                time.sleep(0.001)
