"""The supervisor's side of the zygote, and the pool of warm cells it keeps."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..native.result import advice
from . import wire
from .channel import OUT_OF_MEMORY, Channel
from .mover import Mover
from .policy_zygotes import Kind
from .reactor import Reactor
from .shortage import Shortage, cause_of
from .stock import Stock
from .zygote_messages import BranchOrder, Exited, Forked
from .zygote_process import (
    FORKED_DESCRIPTORS,
    BegunZygote,
    PolicyZygote,
    PoolSettings,
    ZygoteControl,
    ZygoteError,
    ZygoteProcess,
)

if TYPE_CHECKING:
    from ..policy.compiled import CompiledPolicy

_log = logging.getLogger("pyisolate.pool")
#: what became of descriptors that were sent to a full table: the kernel drops them (recvmsg(2), MSG_CTRUNC)
_LOST = f"was lost on the way: {os.strerror(errno.EMFILE)} in this process?"
#: A cell that is not warm by then is broken (seconds).
CELL_TIMEOUT_S = 10.0
#: How many times longer a spawn waits while others are served.
_PATIENCE = 12
#: Who waits for a cell asks again after so long, and after a failure not before so long (seconds).
_LOOK_AGAIN_S = 0.5
_PAUSE_S = 0.05


class Pool:
    """Keeps warm cells ready; restarts the zygote when it dies; reports every cell's exit.

    `prepare` is called once for each warm cell, outside any lock, before it can be handed out (listener), and `move`
    after it, on a thread that may wait (control group); `on_exit` for each reaped cell.
    """

    def __init__(
        self,
        settings: PoolSettings,
        reactor: Reactor,
        prepare: Callable[[Channel], None],
        move: Callable[[Channel], None],
        on_exit: Callable[[Channel, Exited | None], None],
    ) -> None:
        self._settings, self._reactor = settings, reactor
        self._prepare, self._move, self._on_exit = prepare, move, on_exit
        #: called when a cell has become ready, on any thread
        self.on_ready: Callable[[], None] = lambda: None
        self._mover = Mover(self._moved)
        self._start_lock = threading.Lock()
        #: its cells, and the zygotes of single policies
        self.stock = Stock(settings.size)
        self._closed = False
        self._zygote: ZygoteProcess | None = None
        self._shortage = Shortage()
        self.restarts = 0
        #: when the last cell became warm (CLOCK_MONOTONIC)
        self._warm_at = 0.0

    def start(self, begun: BegunZygote | None = None) -> None:
        """Start the zygote, or go on with a begun one, and fill the pool; returns once warm. Raises ZygoteError."""
        with self._start_lock:
            if self._zygote is not None or self._closed:
                return
            try:
                zygote = ZygoteProcess(self._settings, begun)
            except OSError as error:
                raise ZygoteError(f"start zygote: {error.strerror}", hint=advice(error.errno)) from error
            for name, why in zygote.failed_preloads:
                _log.warning("preload %s: %s", name, why)
            try:
                self._reactor.add_callback(zygote.control.fileno(), lambda: self._receive(zygote))
            except OSError as error:
                zygote.stop()
                raise ZygoteError(f"start zygote: watch it: {error.strerror}", hint=advice(error.errno)) from error
            self.stock.forget_orders()
            self._zygote = zygote
        self.refill()

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, or None when none runs."""
        return None if (zygote := self._zygote) is None else zygote.pid

    def refill(self) -> None:
        """Ask for as many cells of each kind as the pool lacks."""
        if self._closed or (self._zygote is None and not self.stock.policies.active):
            return
        with self.stock.condition:
            zygote = self._zygote
            orders = self.stock.order(from_zygote=zygote is not None)
        for kind, forks, count in orders:
            if (forker := zygote if isinstance(kind, str) else kind) is not None:
                self._fork(kind, forker, forks, count)

    def refill_if_low(self) -> None:
        """Refill where less than half is ready; else a sandbox's end does it, which leaves its processor to a fork."""
        if self.stock.is_low():
            self.refill()

    def _fork(self, kind: Kind, zygote: ZygoteControl, forks: bool, count: int) -> None:
        try:
            zygote.fork(count, forks=forks)
        except BlockingIOError:
            with self.stock.condition:
                self.stock.withdraw(kind, count)
                self._shortage.note_stopped()
        except ZygoteError:
            self._zygote_died(zygote)

    def branch(self, given: BranchOrder, *, forks: bool) -> bool:
        """Fork a zygote for a policy, from which its cells come from now on; `forks` as of `take`.

        False where that cannot be: no zygote runs, one gives each cell a user of its own, or too many live already.
        Raises ZygoteError. Waits until it is ready.
        """
        zygote = self._zygote
        if zygote is None or self._closed or self._settings.spec.uid_range is not None or self.stock.policies.full:
            return False
        made = PolicyZygote(zygote, given)
        with self.stock.condition:
            if self._zygote is zygote and not self._closed:
                self._reactor.add_callback(made.control.fileno(), lambda: self._receive(made))
                self.stock.policies.add(made, given.policy, forks=forks)
                return True
        made.stop()
        return False

    def retire_policy(self, policy: CompiledPolicy) -> None:
        """Fork no more cells from a policy's zygote, if it has one; it ends when the last sandbox from it has ended."""
        with self.stock.condition:
            if (zygote := self.stock.policies.retire(policy)) is None:
                return
            self.stock.forget_orders(zygote)
            self.stock.ready.end(zygote)
            self.stock.condition.notify_all()  # who waits for one of its cells asks for another
        self._end_if_unused(zygote)

    def take_ready(self, *, policy: CompiledPolicy | None = None, forks: bool = False) -> Channel | None:
        """Return a warm, prepared cell for a policy, from its zygote first; None where none is ready."""
        return self.stock.take(policy, forks=forks)

    def take(
        self,
        timeout_s: float = CELL_TIMEOUT_S,
        *,
        policy: CompiledPolicy | None = None,
        forks: bool = False,
        ordered: Callable[[], None] | None = None,
    ) -> Channel:
        """Return a warm, prepared cell; one is forked on demand when none is ready. Raises ZygoteError.

        `ordered` is called once a cell is ordered, while that is forked, and what it raises is raised here.
        `forks`: its filter lets it fork without asking the listener. `timeout_s` is counted from the last cell that
        became warm: a caller in a crowd is served in its turn, and gets the error once no cell is.
        """
        started = time.monotonic()
        while True:
            deadline = min(max(started, self._warm_at) + timeout_s, started + _PATIENCE * timeout_s)
            if (channel := self.take_ready(policy=policy, forks=forks)) is not None:
                return channel
            if self._closed:
                raise ZygoteError("fork cell: the supervisor is closed")
            with self.stock.condition:
                self._shortage.raise_if_hopeless(started, deadline)
            self.start()
            kind = self.stock.policies.kind(policy, forks)
            with self.stock.condition:
                self.stock.awaits(kind)
                zygote, failures = self._zygote, self._shortage.failures
            try:
                self.refill()
                if ordered is not None:
                    ordered()
                    ordered = None
                with self.stock.condition:
                    left = max(0.0, min(_LOOK_AGAIN_S, deadline - time.monotonic()))
                    self.stock.condition.wait_for(lambda: self._changed_since(zygote, failures, kind), left)  # noqa: B023
                    if self._shortage.failures != failures:
                        self.stock.condition.wait_for(lambda: self.stock.ready.count(kind) or self._closed, _PAUSE_S)  # noqa: B023
            finally:
                self.stock.awaits_no_more(kind)

    def _changed_since(self, zygote: ZygoteProcess | None, failures: int, kind: Kind) -> bool:
        changed = self._zygote is not zygote or self._shortage.failures != failures
        return changed or bool(self.stock.ready.count(kind)) or self._closed

    def close(self) -> None:
        """Kill the zygote and with it every cell; reports the exits of all that were alive."""
        with self.stock.condition:
            if self._closed:
                return
            self._closed = self.stock.closed = True
            zygote, self._zygote = self._zygote, None
            self.stock.condition.notify_all()
        if zygote is not None:
            self._reactor.remove_callback(zygote.control.fileno())
            for channel in self.stock.living():
                channel.signal(signal.SIGKILL)
            self._stop_policy_zygotes()
            zygote.stop()
        self._mover.close()
        self._bury_all()

    # -- reactor side ---------------------------------------------------------------------------------------

    def served(self, channel: Channel) -> None:
        """The reactor gave a channel its turn: a warming cell may have become warm, or may have died."""
        if not self.stock.is_warming(channel):
            return
        if (why := channel.ended) is not None:
            number = errno.ENOMEM if why == OUT_OF_MEMORY else None
            self._failed(f"cell {channel.pid} ended while warming: {why or 'end of file'}", number)
        elif channel.conversation.phase is wire.Phase.IDLE and not self.stock.is_moving(channel):
            self._became_warm(channel)

    def _failed(self, why: str, met: int | Exception | None = None) -> None:
        """Note why no cell came. `met`: an errno, or what was raised in doing what `why` says."""
        cause = cause_of(why, met)
        with self.stock.condition:
            self._shortage.note(*cause)
            self.stock.condition.notify_all()

    def _became_warm(self, channel: Channel) -> None:
        answer = channel.take_answer()
        failed = answer.failed if isinstance(answer, wire.Warm) else (("warm", "no report"),)
        channel.steps = answer.steps if isinstance(answer, wire.Warm) else ()
        zygote = self._zygote
        if zygote is not None and zygote.cannot_kill:
            failed = (*failed, ("kill", f"{zygote.cannot_kill}; allow these calls to the supervisor, or CAP_KILL"))
        channel.failed_steps = failed
        try:
            if "seccomp" in channel.steps and channel.listener is None:
                raise OSError(errno.EMFILE, f"its listener {_LOST}")
            self._prepare(channel)
        except Exception as error:
            self._spoilt(channel, error)
            return
        self.stock.moves(channel)
        self._mover.submit(channel)

    def _spoilt(self, channel: Channel, error: Exception) -> None:
        channel.signal(signal.SIGKILL)
        self.stock.is_spoilt(channel)
        self._failed(f"prepare cell {channel.pid}", error)
        if not isinstance(error, ProcessLookupError):  # it was killed before the signal came: no fault of ours
            _log.error("preparing cell %d failed: %s", channel.pid, error, exc_info=not isinstance(error, OSError))

    def _moved(self, channel: Channel) -> None:
        """Move a cell and offer it. On the mover's thread: the cell and the zygote may die before it is done."""
        try:
            self._move(channel)
        except Exception as error:
            self._spoilt(channel, error)
            return
        with self.stock.condition:
            if not self.stock.moved(channel):
                return
            self._shortage.end()
            self._warm_at = time.monotonic()
            if channel.made_for is not None and self.stock.policies.of(channel.made_for) is not channel.zygote:
                channel.signal(signal.SIGKILL)  # it was on its way when its zygote was retired
                return
            self.stock.ready.add(channel)
            self.stock.condition.notify_all()  # each waits for one kind
        self.on_ready()

    def _receive(self, zygote: ZygoteControl) -> None:
        """Take one message: the reactor comes again at once where there are more."""
        try:
            received = zygote.receive()
        except BlockingIOError:
            return
        except OSError:
            received = None
        except MemoryError as error:
            self.stock.forget_orders()  # a cell that was forked may be lost with its message
            self._failed("receive a cell", error)
            raise
        if received is None:
            self._zygote_died(zygote)
            return
        message, descriptors = received
        if isinstance(message, Forked):
            self._forked(zygote, message, descriptors)
        elif isinstance(message, Exited):
            self._exited(message)

    def _forked(self, zygote: ZygoteControl, message: Forked, descriptors: list[int]) -> None:
        kind: Kind = zygote if isinstance(zygote, PolicyZygote) else "forking" if message.forks else "plain"
        if message.error or len(descriptors) != FORKED_DESCRIPTORS:
            self.stock.withdraw(kind)
            for descriptor in descriptors:  # a cell whose socket was lost sees the end of the stream, and ends
                os.close(descriptor)
            lost = f"one of its descriptors {_LOST}"
            self._failed(message.error or lost, message.errno if message.error else errno.EMFILE)
            _log.error("fork cell: %s", message.error or lost)
            return
        channel: Channel | None = None
        try:
            ends = (descriptors[0], descriptors[1], descriptors[2], descriptors[3])
            channel = Channel(message.pid, ends, descriptors[4], init=message.init)
            channel.signal_otherwise, channel.forks = zygote.signal, message.forks
            channel.zygote, channel.made_for = zygote, zygote.made_for
            self.stock.forked(kind, channel)
            self._reactor.add_channel(channel)
        except (OSError, MemoryError) as error:
            if channel is not None:  # it stays in the stock until it is reaped, and is released then
                channel.signal(signal.SIGKILL)
            else:
                self.stock.withdraw(kind)
            self._failed(f"watch cell {message.pid}", error)

    def _exited(self, message: Exited) -> None:
        if (channel := self.stock.exited(message.pid)) is not None:
            self._bury(channel, message)
            if isinstance(channel.zygote, PolicyZygote):
                self._end_if_unused(channel.zygote)

    def _end_if_unused(self, zygote: PolicyZygote) -> None:
        """End a retired policy zygote that has no cell any more."""
        with self.stock.condition:
            if self.stock.uses(zygote) or self.stock.policies.remove(zygote) is None:
                return
        self._reactor.remove_callback(zygote.control.fileno())
        zygote.stop()

    def _zygote_died(self, zygote: ZygoteControl) -> None:
        with self.stock.condition:
            policy = self.stock.policies.remove(zygote)
            if policy is not None:
                self.stock.forget_orders(policy)
            elif self._zygote is not zygote:
                return
            else:
                self._zygote = None
                self.restarts += 1
        self._reactor.remove_callback(zygote.control.fileno())
        if policy is not None:
            _log.error("policy zygote %d died, and its cells with it", policy.pid)
            policy.stop()
            self._bury_all(policy)
        elif isinstance(zygote, ZygoteProcess):
            _log.error("zygote %d died; its cells died with it, a new one starts on demand", zygote.pid)
            zygote.stop()
            self._stop_policy_zygotes()
            self._bury_all()
        with self.stock.condition:
            self.stock.condition.notify_all()

    def _stop_policy_zygotes(self) -> None:
        with self.stock.condition:
            all_of_them = self.stock.policies.remove_all()
            for one in all_of_them:
                self.stock.forget_orders(one)
        for one in all_of_them:
            self._reactor.remove_callback(one.control.fileno())
            one.stop()

    def _bury_all(self, zygote: PolicyZygote | None = None) -> None:
        """Bury every cell, or those of one policy zygote: it has died."""
        for channel in self.stock.buried(zygote):
            channel.signal(signal.SIGKILL)
            self._bury(channel, None)

    def _bury(self, channel: Channel, message: Exited | None) -> None:
        channel.exit_status = None if message is None else message.status
        channel.read_out()
        channel.exited.set()
        try:
            self._on_exit(channel, message)
        except Exception:
            _log.exception("accounting for cell %d failed", channel.pid)

    def abandon(self) -> None:
        """In a forked child of the host: close what was inherited, signal no process."""
        self._closed = True
        self._mover.abandon()
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.control.close()
        for policy in self.stock.policies.remove_all():
            policy.abandon()
        self.stock.abandon()
