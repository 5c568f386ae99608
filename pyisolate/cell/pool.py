"""The supervisor's side of the zygote, and the pool of warm cells it keeps."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ..errors import SandboxError
from ..native._result import advice, shortage
from . import wire
from .channel import Channel
from .confine import CellSpec
from .reactor import Reactor
from .zygote import MAX_CONTROL_BYTES, Exited, Fork, Forked, Start, Started, ZygoteMessage

_log = logging.getLogger("pyisolate.pool")
_decode = msgspec.msgpack.Decoder(ZygoteMessage).decode
#: A zygote that has not come up, or a cell that has not, by then is broken (seconds). A preload may be slow.
START_TIMEOUT_S = 60.0
CELL_TIMEOUT_S = 10.0
#: How many times longer a spawn waits while others are served.
_PATIENCE = 12
#: A shortage may pass: who waits for a cell asks again after a pause, until nothing but failures has come for so long.
_PAUSE_S, _LOOK_AGAIN_S, _GIVE_UP_AFTER_S = 0.05, 0.5, 2.0


class ZygoteError(SandboxError):
    """The zygote could not be started, or could not fork a cell."""


@dataclass(frozen=True)
class PoolSettings:
    """What a pool keeps: `size` warm cells, forked from a zygote with `preload` imported."""

    size: int
    preload: tuple[str, ...]
    spec: CellSpec
    drop_privileges: bool
    environment: dict[str, str]
    #: descriptors that the zygote holds until its last cell is gone: links of programs that decide for them
    held: tuple[int, ...] = ()


class ZygoteProcess:
    """One running zygote and its control socket."""

    def __init__(self, settings: PoolSettings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-m", "pyisolate.cell.zygote", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno(), *settings.held],
                env=settings.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.control = ours
        start = Start(
            host_pid=os.getpid(),
            preload=settings.preload,
            spec=settings.spec,
            drop_privileges=settings.drop_privileges,
        )
        self.failed_preloads: tuple[tuple[str, str], ...] = ()
        try:
            self.control.send(msgspec.msgpack.encode(start))
            self._wait_started()
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
        self.control.setblocking(False)

    def fork(self, count: int) -> None:
        """Ask for `count` more cells. Raises ZygoteError when the zygote is gone, BlockingIOError while it is stuck."""
        try:
            self.control.send(msgspec.msgpack.encode(Fork(count=count)))
        except BlockingIOError:
            raise
        except OSError as error:
            raise ZygoteError(f"fork cell: the zygote is gone ({error.strerror})") from error

    def receive(self) -> tuple[ZygoteMessage, list[int]] | None:
        """Return one message and its descriptors; None at end of file. Raises BlockingIOError when there is none."""
        data, descriptors, _flags, _address = socket.recv_fds(self.control, MAX_CONTROL_BYTES, 8)
        if not data:
            return None
        return _decode(data), descriptors

    def stop(self) -> None:
        """End the zygote (its cells die with it) and reap it."""
        self.control.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            _log.error("zygote %d does not die", self._process.pid)


class Pool:
    """Keeps warm cells ready; restarts the zygote when it dies; reports every cell's exit.

    `prepare` is called once for each warm cell, outside any lock, before it can be handed out (listener, cgroup);
    `on_exit` for each reaped cell.
    """

    def __init__(
        self,
        settings: PoolSettings,
        reactor: Reactor,
        prepare: Callable[[Channel], None],
        on_exit: Callable[[Channel, Exited | None], None],
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._prepare = prepare
        self._on_exit = on_exit
        self._condition = threading.Condition()
        self._start_lock = threading.Lock()
        self._ready: deque[Channel] = deque()
        self._warming: dict[int, Channel] = {}
        self._live: dict[int, Channel] = {}
        self._asked = 0
        self._waiting = 0
        #: cells that were taken ahead, for a policy (see `spares`): they count as cells of the pool
        self._aside = 0
        self._zygote: ZygoteProcess | None = None
        self._closed = False
        self._last_error = ""
        self._last_hint: str | None = None
        self._failures = 0
        self._failing_since: float | None = None
        self._warm_at = 0.0
        self.restarts = 0

    def start(self) -> None:
        """Start the zygote and fill the pool; returns when the zygote is warm. Raises ZygoteError."""
        with self._start_lock:
            if self._zygote is not None or self._closed:
                return
            try:
                zygote = ZygoteProcess(self._settings)
            except OSError as error:
                raise ZygoteError(f"start zygote: {error.strerror}", hint=advice(error.errno)) from error
            for name, why in zygote.failed_preloads:
                _log.warning("preload %s: %s", name, why)
            try:
                self._reactor.add_callback(zygote.control.fileno(), lambda: self._receive(zygote))
            except OSError as error:
                zygote.stop()
                raise ZygoteError(f"start zygote: watch it: {error.strerror}", hint=advice(error.errno)) from error
            self._asked = 0
            self._zygote = zygote
        self.refill()

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, or None when none runs."""
        zygote = self._zygote
        return None if zygote is None else zygote.pid

    @property
    def size(self) -> int:
        """How many cells are kept warm."""
        return self._settings.size

    def counts(self) -> tuple[int, int]:
        """Return (ready, warming) cells; those set aside are ready."""
        with self._condition:
            return len(self._ready) + self._aside, len(self._warming) + self._asked

    def take_spare(self) -> Channel | None:
        """Return a warm cell and count it as set aside; None where none is to spare."""
        with self._condition:
            if self._waiting or self._closed:
                return None
            while self._ready:
                channel = self._ready.popleft()
                if channel.ended is None:
                    self._aside += 1
                    return channel
            return None

    def set_aside(self, count: int, *, refill: bool = True) -> None:
        """Count as many more (or fewer) cells as set aside, and fork for those that were taken."""
        with self._condition:
            self._aside += count
        if refill:
            self.refill()

    def refill(self) -> None:
        """Ask for as many cells as the pool lacks."""
        with self._condition:
            wanted = self._settings.size + self._waiting
            lacking = wanted - len(self._ready) - self._aside - len(self._warming) - self._asked
            zygote = self._zygote
            if lacking <= 0 or zygote is None or self._closed:
                return
            self._asked += lacking
        try:
            zygote.fork(lacking)
        except BlockingIOError:
            with self._condition:
                self._asked -= lacking
                self._last_error = "the zygote does not read its requests: is it stopped?"
        except ZygoteError:
            self._zygote_died(zygote)

    def take(self, timeout_s: float = CELL_TIMEOUT_S) -> Channel:
        """Return a warm, prepared cell; forks on demand when none is ready. Raises ZygoteError.

        `timeout_s` is counted from the last cell that became warm: who waits in a crowd is served in turn, and told
        when nobody is.
        """
        started = time.monotonic()
        while True:
            deadline = min(max(started, self._warm_at) + timeout_s, started + _PATIENCE * timeout_s)
            with self._condition:
                while self._ready:
                    channel = self._ready.popleft()
                    if channel.ended is None:
                        return channel
            self._give_up_if_hopeless(started, deadline)
            self.start()
            with self._condition:
                self._waiting += 1
                zygote, failures = self._zygote, self._failures
            try:
                self.refill()
                with self._condition:
                    left = max(0.0, min(_LOOK_AGAIN_S, deadline - time.monotonic()))
                    self._condition.wait_for(lambda: self._changed_since(zygote, failures), left)  # noqa: B023
                    if self._failures != failures:
                        self._condition.wait_for(lambda: self._ready or self._closed, _PAUSE_S)
            finally:
                with self._condition:
                    self._waiting -= 1

    def _changed_since(self, zygote: ZygoteProcess | None, failures: int) -> bool:
        return bool(self._ready) or self._closed or self._zygote is not zygote or self._failures != failures

    def _give_up_if_hopeless(self, started: float, deadline: float) -> None:
        if self._closed:
            raise ZygoteError("fork cell: the supervisor is closed")
        now = time.monotonic()
        failing = self._failing_since is not None and now - max(started, self._failing_since) >= _GIVE_UP_AFTER_S
        if now >= deadline or failing:
            raise ZygoteError(
                f"fork cell: none was ready after {now - started:.1f} s: "
                + (self._last_error or "the zygote does not answer: is it stopped?"),
                hint=self._last_hint
                or "run `pyisolate doctor`; the machine may be out of processes, memory or descriptors",
            )

    def close(self) -> None:
        """Kill the zygote and with it every cell; reports the exits of all that were alive."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            zygote, self._zygote = self._zygote, None
            self._condition.notify_all()
        if zygote is not None:
            self._reactor.remove_callback(zygote.control.fileno())
            for channel in list(self._live.values()):
                channel.signal(signal.SIGKILL)
            zygote.stop()
        self._bury_all()

    # -- reactor side ---------------------------------------------------------------------------------------

    def served(self, channel: Channel) -> bool:
        """The reactor gave a channel its turn: a warming cell may have become ready (True), or may have died."""
        if channel.pid not in self._warming:
            return False
        if channel.conversation.phase is wire.Phase.IDLE:
            self._became_warm(channel)
            return True
        if channel.ended is not None:
            self._failed(f"cell {channel.pid} ended while warming: {channel.ended or 'end of file'}")
        return False

    def _failed(self, why: str, number: int | None = None) -> None:
        with self._condition:
            self._last_error, self._last_hint = why, advice(number)
            self._failures += 1
            self._failing_since = self._failing_since or time.monotonic()
            self._condition.notify_all()

    def _became_warm(self, channel: Channel) -> None:
        answer = channel.take_answer()
        failed = answer.failed if isinstance(answer, wire.Warm) else (("warm", "no report"),)
        channel.steps = answer.steps if isinstance(answer, wire.Warm) else ()
        channel.failed_steps = failed
        try:
            if "seccomp" in channel.steps and channel.listener is None:
                raise OSError(errno.EMFILE, "its listener was lost on the way: too many open files in this process?")
            self._prepare(channel)
        except Exception as error:
            channel.signal(signal.SIGKILL)
            with self._condition:
                self._warming.pop(channel.pid, None)
            self._failed(f"prepare cell {channel.pid}: {error}", error.errno if isinstance(error, OSError) else None)
            if not isinstance(error, OSError):
                _log.exception("preparing cell %d failed", channel.pid)
            elif not isinstance(error, ProcessLookupError):  # it was killed meanwhile: no fault of ours
                _log.error("preparing cell %d failed: %s", channel.pid, error)
            return
        with self._condition:
            if self._live.get(channel.pid) is not channel:
                return  # another thread saw the zygote die meanwhile, and has buried it
            self._failing_since, self._last_error, self._last_hint = None, "", None
            self._warm_at = time.monotonic()
            self._warming.pop(channel.pid, None)
            self._ready.append(channel)
            self._condition.notify()

    def _receive(self, zygote: ZygoteProcess) -> None:
        for _ in range(64):
            try:
                received = zygote.receive()
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._zygote_died(zygote)
                return
            message, descriptors = received
            if isinstance(message, Forked):
                self._forked(message, descriptors)
            elif isinstance(message, Exited):
                self._exited(message)

    def _forked(self, message: Forked, descriptors: list[int]) -> None:
        with self._condition:
            self._asked = max(0, self._asked - 1)
        if message.error or len(descriptors) != 5:
            # A cell whose socket was lost sees the end of the stream, and ends.
            for descriptor in descriptors:
                os.close(descriptor)
            lost = "its descriptors were lost on the way: too many open files in this process?"
            self._failed(message.error or lost, shortage(message.error) if message.error else errno.EMFILE)
            _log.error("fork cell: %s", message.error or lost)
            return
        try:
            channel = Channel(
                message.pid, (descriptors[0], descriptors[1], descriptors[2], descriptors[3]), descriptors[4]
            )
        except OSError as error:
            self._failed(f"watch cell {message.pid}: {error.strerror}", error.errno)
            return
        with self._condition:
            self._warming[channel.pid] = channel
            self._live[channel.pid] = channel
        try:
            self._reactor.add_channel(channel)
        except OSError as error:  # it stays in `_live` until it is reaped, and is released then
            channel.signal(signal.SIGKILL)
            self._failed(f"watch cell {message.pid}: {error.strerror}", error.errno)

    def _exited(self, message: Exited) -> None:
        with self._condition:
            channel = self._live.pop(message.pid, None)
            self._warming.pop(message.pid, None)
            if channel is not None and channel in self._ready:
                self._ready.remove(channel)
        if channel is not None:
            self._bury(channel, message)

    def _zygote_died(self, zygote: ZygoteProcess) -> None:
        with self._condition:
            if self._zygote is not zygote:
                return
            self._zygote = None
            self.restarts += 1
        self._reactor.remove_callback(zygote.control.fileno())
        _log.error("zygote %d died; its cells died with it, a new one starts on demand", zygote.pid)
        zygote.stop()
        self._bury_all()
        with self._condition:
            self._condition.notify_all()

    def _bury_all(self) -> None:
        with self._condition:
            live = list(self._live.values())
            self._live.clear()
            self._warming.clear()
            self._ready.clear()
        for channel in live:
            channel.signal(signal.SIGKILL)
            self._bury(channel, None)

    def _bury(self, channel: Channel, message: Exited | None) -> None:
        channel.exit_status = None if message is None else message.status
        # A caller that owns the channel reads its last frames itself and sees the end of file.
        if channel.lock.acquire(blocking=False):
            try:
                while channel.ended is None and channel.pump(0):
                    pass
                channel.end("")
            finally:
                channel.lock.release()
        channel.exited.set()
        try:
            self._on_exit(channel, message)
        except Exception:
            _log.exception("accounting for cell %d failed", channel.pid)

    def abandon(self) -> None:
        """In a forked child of the host: close what was inherited, signal nobody."""
        self._closed = True
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.control.close()
        for channel in list(self._live.values()):
            channel.abandon()
        self._live.clear()
        self._warming.clear()
        self._ready.clear()
