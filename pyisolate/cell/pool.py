"""The supervisor's side of the zygote, and the pool of warm cells it keeps."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..native.result import advice
from . import wire
from .channel import OUT_OF_MEMORY, Channel
from .mover import Mover
from .policy_zygotes import Kind, PolicyZygotes, ReadyCells, kind_of
from .reactor import Reactor
from .shortage import Shortage, cause_of
from .zygote import BranchOrder, Exited, Forked
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
        self._condition = threading.Condition()
        self._start_lock = threading.Lock()
        self._ready = ReadyCells()
        self.policies = PolicyZygotes()
        self._warming: dict[int, Channel] = {}
        #: those of the warming that are prepared and wait for their control group
        self._moving: set[Channel] = set()
        self._live: dict[int, Channel] = {}
        self._asked: Counter[Kind] = Counter()
        self._waiting: Counter[Kind] = Counter()
        #: one cell that may fork is kept once one was asked for
        self._keeps_forking = False
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
            self._asked.clear()
            self._zygote = zygote
        self.refill()

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, or None when none runs."""
        return None if (zygote := self._zygote) is None else zygote.pid

    @property
    def size(self) -> int:
        """How many cells are kept warm."""
        return self._settings.size

    def counts(self) -> tuple[int, int]:
        """Return (ready, warming) cells; those taken ahead for the usual policy are ready."""
        with self._condition:
            return self._stock(), len(self._warming) + self._asked.total()

    def of_others(self) -> int:
        """Return how many cells wait for other policies than the usual one: they are kept beside the pool's `size`."""
        with self._condition:
            return self.policies.count(self._ready)[1]

    def states(self) -> tuple[int, int, int]:
        """Return how many cells are ready, taken ahead for a policy, and starting."""
        with self._condition:
            return self._ready.total(), self.policies.aside, len(self._warming) + self._asked.total()

    def _stock(self) -> int:
        """Return how many are ready or taken ahead; those that may fork, and other policies', are kept beside them."""
        return self._ready.count("plain") + self.policies.count(self._ready)[0]

    def has_spare(self, policy: CompiledPolicy, *, forks: bool) -> bool:
        """True while `take_spare` may find one."""
        kind = self.policies.kind(policy, forks)
        return bool(self._ready.count(kind) or (policy is self.policies.usual and self._ready.count("plain") > 1))

    def take_spare(self, policy: CompiledPolicy, *, forks: bool = False) -> Channel | None:
        """Return a warm cell for a policy, first one too many, and count it as set aside; None where there is none."""
        kind = self.policies.kind(policy, forks)
        with self._condition:
            if any(self._waiting.values()) or self._closed:
                return None
            too_many = policy is self.policies.usual and not forks and self._ready.count("plain") > 1
            channel = self._ready.pop("plain" if too_many else kind)
            if channel is not None:
                self.policies.set_aside(policy, 1)
            return channel

    def give_back(self, policy: CompiledPolicy) -> None:
        """A cell that was taken ahead is a sandbox's now, or has ended."""
        with self._condition:
            self.policies.set_aside(policy, -1)

    def choose_usual(self, policy: CompiledPolicy | None) -> None:
        """Keep all cells but one for a policy from now on, and end what is too many of another's."""
        with self._condition:
            self.policies.usual = policy
            for zygote in self.policies.active:
                self._ready.end(zygote, keep=self.policies.kept(zygote, self._settings.size, self._keeps_forking))

    def refill(self) -> None:
        """Ask for as many cells of each kind as the pool lacks."""
        orders: list[tuple[Kind, ZygoteControl, bool, int]] = []
        if self._closed or (self._zygote is None and not self.policies.active):
            return
        with self._condition:
            for kind, forks, count in self.policies.lacking(self._settings.size, self._keeps_forking, self._there):
                if (forker := self._zygote if isinstance(kind, str) else kind) is not None:
                    self._asked[kind] += count
                    orders.append((kind, forker, forks, count))
        for order in orders:
            self._fork(*order)

    def refill_if_low(self) -> None:
        """Refill where less than half is ready; else a sandbox's end does it, which leaves its processor to a fork."""
        with self._condition:
            low = 2 * self._stock() < self._settings.size or self._keeps_forking > bool(self._ready.count("forking"))
        if low:
            self.refill()

    def _fork(self, kind: Kind, zygote: ZygoteControl, forks: bool, count: int) -> None:
        try:
            zygote.fork(count, forks=forks)
        except BlockingIOError:
            with self._condition:
                self._asked[kind] = max(0, self._asked[kind] - count)
                self._shortage.note_stopped()
        except ZygoteError:
            self._zygote_died(zygote)

    def _there(self, kind: Kind) -> int:
        """Return how many of a kind there are, or will be, beside those that callers wait for."""
        there = self._ready.count(kind) + self._asked.get(kind, 0) - self._waiting.get(kind, 0)
        if self._warming:
            there += sum(kind_of(channel) == kind for channel in self._warming.values())
        return there

    def branch(self, given: BranchOrder, *, forks: bool) -> bool:
        """Fork a zygote for a policy, from which its cells come from now on; `forks` as of `take`.

        False where that cannot be: no zygote runs, one gives each cell a user of its own, or too many live already.
        Raises ZygoteError. Waits until it is ready.
        """
        zygote = self._zygote
        if zygote is None or self._closed or self._settings.spec.uid_range is not None or self.policies.full:
            return False
        made = PolicyZygote(zygote, given)
        with self._condition:
            if self._zygote is zygote and not self._closed:
                self._reactor.add_callback(made.control.fileno(), lambda: self._receive(made))
                self.policies.add(made, given.policy, forks=forks)
                return True
        made.stop()
        return False

    def retire_policy(self, policy: CompiledPolicy) -> None:
        """Fork no more cells from a policy's zygote, if it has one; it ends when the last sandbox from it has ended."""
        with self._condition:
            if (zygote := self.policies.retire(policy)) is None:
                return
            del self._asked[zygote]
            self._ready.end(zygote)
            self._condition.notify_all()  # who waits for one of its cells asks for another
        self._end_if_unused(zygote)

    def take_ready(self, *, policy: CompiledPolicy | None = None, forks: bool = False) -> Channel | None:
        """Return a warm, prepared cell for a policy, from its zygote first; None where none is ready."""
        kind, other = self.policies.kind(policy, forks), self.policies.kind(None, forks)
        self._keeps_forking = self._keeps_forking or kind == "forking"
        with self._condition:
            return self._ready.pop(kind) or self._ready.pop(other)

    def take(
        self, timeout_s: float = CELL_TIMEOUT_S, *, policy: CompiledPolicy | None = None, forks: bool = False
    ) -> Channel:
        """Return a warm, prepared cell; one is forked on demand when none is ready. Raises ZygoteError.

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
            with self._condition:
                self._shortage.raise_if_hopeless(started, deadline)
            self.start()
            kind = self.policies.kind(policy, forks)
            with self._condition:
                self._waiting[kind] += 1
                zygote, failures = self._zygote, self._shortage.failures
            try:
                self.refill()
                with self._condition:
                    left = max(0.0, min(_LOOK_AGAIN_S, deadline - time.monotonic()))
                    self._condition.wait_for(lambda: self._changed_since(zygote, failures, kind), left)  # noqa: B023
                    if self._shortage.failures != failures:
                        self._condition.wait_for(lambda: self._ready.count(kind) or self._closed, _PAUSE_S)  # noqa: B023
            finally:
                with self._condition:
                    self._waiting[kind] -= 1
                    self._waiting += Counter()  # forgets zygotes whose cells are awaited no more

    def _changed_since(self, zygote: ZygoteProcess | None, failures: int, kind: Kind) -> bool:
        changed = self._zygote is not zygote or self._shortage.failures != failures
        return changed or bool(self._ready.count(kind)) or self._closed

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
            self._stop_policy_zygotes()
            zygote.stop()
        self._mover.close()
        self._bury_all()

    # -- reactor side ---------------------------------------------------------------------------------------

    def served(self, channel: Channel) -> None:
        """The reactor gave a channel its turn: a warming cell may have become warm, or may have died."""
        if self._warming.get(channel.pid) is not channel:
            return
        if (why := channel.ended) is not None:
            number = errno.ENOMEM if why == OUT_OF_MEMORY else None
            self._failed(f"cell {channel.pid} ended while warming: {why or 'end of file'}", number)
        elif channel.conversation.phase is wire.Phase.IDLE and channel not in self._moving:
            self._became_warm(channel)

    def _failed(self, why: str, met: int | Exception | None = None) -> None:
        """Note why no cell came. `met`: an errno, or what was raised in doing what `why` says."""
        cause = cause_of(why, met)
        with self._condition:
            self._shortage.note(*cause)
            self._condition.notify_all()

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
        with self._condition:
            self._moving.add(channel)
        self._mover.submit(channel)

    def _spoilt(self, channel: Channel, error: Exception) -> None:
        channel.signal(signal.SIGKILL)
        with self._condition:
            if self._warming.get(channel.pid) is channel:
                del self._warming[channel.pid]
            self._moving.discard(channel)
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
        with self._condition:
            self._moving.discard(channel)
            if self._live.get(channel.pid) is not channel:
                return  # another thread has seen the zygote die, and has buried it
            self._shortage.end()
            self._warm_at = time.monotonic()
            self._warming.pop(channel.pid, None)
            if channel.made_for is not None and self.policies.of(channel.made_for) is not channel.zygote:
                channel.signal(signal.SIGKILL)  # it was on its way when its zygote was retired
                return
            self._ready.add(channel)
            self._condition.notify_all()  # each waits for one kind
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
            self._asked.clear()  # a cell that was forked may be lost with its message
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
            self._answered(kind)
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
            with self._condition:  # at once: one that is counted nowhere is asked for again
                self._answered(kind)
                self._live[channel.pid] = self._warming[channel.pid] = channel
            self._reactor.add_channel(channel)
        except (OSError, MemoryError) as error:
            if channel is not None:  # it stays in `_live` until it is reaped, and is released then
                channel.signal(signal.SIGKILL)
            else:
                self._answered(kind)
            self._failed(f"watch cell {message.pid}", error)

    def _answered(self, kind: Kind) -> None:
        with self._condition:
            if kind in self._asked:  # else its zygote was retired since
                self._asked[kind] = max(0, self._asked[kind] - 1)

    def _exited(self, message: Exited) -> None:
        with self._condition:
            channel = self._live.pop(message.pid, None)
            self._warming.pop(message.pid, None)
            if channel is not None:
                self._ready.remove(channel)
        if channel is not None:
            self._bury(channel, message)
            if isinstance(channel.zygote, PolicyZygote):
                self._end_if_unused(channel.zygote)

    def _end_if_unused(self, zygote: PolicyZygote) -> None:
        """End a retired policy zygote that has no cell any more."""
        with self._condition:
            forking = zygote in self.policies.active
            used = forking or any(one.zygote is zygote for one in self._live.values())
            if used or self.policies.remove(zygote) is None:
                return
        self._reactor.remove_callback(zygote.control.fileno())
        zygote.stop()

    def _zygote_died(self, zygote: ZygoteControl) -> None:
        with self._condition:
            policy = self.policies.remove(zygote)
            if policy is not None:
                del self._asked[policy]
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
        with self._condition:
            self._condition.notify_all()

    def _stop_policy_zygotes(self) -> None:
        with self._condition:
            all_of_them = self.policies.remove_all()
            for one in all_of_them:
                del self._asked[one]
        for one in all_of_them:
            self._reactor.remove_callback(one.control.fileno())
            one.stop()

    def _bury_all(self, zygote: PolicyZygote | None = None) -> None:
        """Bury every cell, or those of one policy zygote: it has died."""
        with self._condition:
            buried = [one for one in self._live.values() if zygote is None or one.zygote is zygote]
            for channel in buried:
                del self._live[channel.pid]
                self._warming.pop(channel.pid, None)
                self._moving.discard(channel)
                self._ready.remove(channel)
        for channel in buried:
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
        for policy in self.policies.remove_all():
            policy.abandon()
        for channel in list(self._live.values()):
            channel.abandon()
        self._live, self._warming, self._ready = {}, {}, ReadyCells()
