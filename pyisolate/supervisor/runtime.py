"""What a supervisor is made of: the sandboxes it knows, the records that come for them, the cells it gives back.

`Supervisor` is its public face. To a sandbox it is the `Host`, to the pools it is `CellEvents`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..cell.channel import Channel
from ..egress.messages import Led
from ..egress.process import EgressProxy, Entrance, ProxyTraits
from ..errors import LimitExceeded, SandboxClosed, SandboxDied, SandboxError
from ..kernel.plan import KernelPlan
from ..kernel.prepared import CellTraits, Prepared
from ..limits.watchdog import Watchdog
from ..native.threads import Starter, Thread
from ..policy.advice import AdviceOfHost
from ..policy.web import by_name
from ..sandbox.aio import HostLoop, HostThreads, run_logged
from ..sandbox.cell_session import CellSession
from ..sandbox.host_executor import HostSide
from ..telemetry.metrics import CellState, SandboxRow
from ..telemetry.pipeline import SandboxTelemetry
from . import living
from .arrivals import Arrivals
from .assign import Records
from .cell_users import proxy_uid
from .control_token import check_token, token_required
from .host_errors import translate_host_error
from .options import PolicyLike, as_policy
from .policy_cache import PreparedPolicies
from .registry import Registry
from .secret_values import injections
from .start import Parts, Started, StartOptions, start

if TYPE_CHECKING:
    import asyncio

    from ..cell.zygote_messages import Exited
    from ..kernel.binding import KernelBinding
    from ..policy import Policy
    from ..policy.compiled import CompiledPolicy
    from ..records import SandboxContext
    from ..sandbox.ask import Asker
    from ..sandbox.host_function import Offer
    from ..sandbox.result import OutputCallback
    from ..sandbox.session import Session
    from ..telemetry.recorder import Recorder

_log = logging.getLogger("pyisolate.supervisor.runtime")
_T = TypeVar("_T")
#: Given up, a call takes a moment until its record is made (seconds).
_CARRIED_OUT_S = 5.0


class Runtime:
    """One supervisor's state. `state`: new, running or closed."""

    def __init__(
        self,
        traits: CellTraits,
        options: StartOptions,
        recorder: Recorder,
        *,
        owns_recorder: bool,
    ) -> None:
        self.recorder, self._owns_recorder, self.options = recorder, owns_recorder, options
        self.registry, self.watchdog = Registry(), Watchdog()
        arrivals = Arrivals(self.registry, recorder, full=traits.full_telemetry)
        self.plan = KernelPlan(traits, arrivals.on_kernel_record, arrivals.on_asked)
        self.egress = EgressProxy(
            ProxyTraits(proxy_uid(traits), traits.gid, options.egress_hosts, options.egress_ca, self.plan.lead),
            arrivals.on_refused_egress,
            arrivals.on_carried_egress,
            arrivals.on_asked,
        )
        self.tables = PreparedPolicies(self.plan, self._tables_in_use, self.egress.lead_to)
        arrivals.begin(self.plan, self.tables)
        self._traits = traits
        records = Records(self.telemetry_of, self.plan.binding, lambda one: recorder.metrics.pool_spawns.add((one,)))
        self._host_side, self._starter = HostSide(), Starter()
        self._parts = Parts(
            self,
            self,
            self,
            traits,
            self.plan,
            self.tables,
            self.registry,
            self.watchdog,
            records,
            recorder.metrics,
            self.egress.change,
            self._host_side,
            self._starter,
        )
        self._started: Started | None = None
        self._lock = threading.RLock()
        self._host_threads, self._function_loop = HostThreads(self._starter), HostLoop(self._starter)
        self._function_threads = HostThreads(self._starter, name="pyisolate-function")
        self._look_threads = HostThreads(self._starter, name="pyisolate-look")
        self.state = "new"
        living.add(self)

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what is not running yet. Raises SandboxError where the host cannot, or when it is closed."""
        if self.state == "running":
            return
        with self._lock:
            if self.state == "running":
                return
            if self.state == "closed":
                raise SandboxError("start supervisor: it is closed")
            self.recorder.open_sinks()
            try:
                # not when it is first asked for: it would inherit what confines that caller
                self._host_side.start()
                self._starter.open()
                self._started = start(self._parts, self.options, self._set_started)
            except BaseException as error:
                self._started = None
                self._starter.close()
                self._host_side.close()
                raise translate_host_error("start supervisor", error) from error
            self.state = "running"

    def _set_started(self, started: Started) -> None:
        self._started = started

    @property
    def started(self) -> Started:
        """What runs. Raises SandboxError before `start` and after `close`."""
        if self._started is None:
            raise SandboxError("supervisor: it does not run")
        return self._started

    @property
    def running(self) -> Started | None:
        """What runs, None before `start` and after `close`."""
        return self._started

    def close(self) -> None:
        """End every sandbox, the zygotes and all threads; give back every control group, descriptor and mount."""
        with self._lock:
            if self.state == "closed":
                return
            self.state = "closed"
        known = self.registry.known()
        for session in self.registry.live():
            session.close()
        self._end_carried_out(known)
        if self._started is not None:
            self._started.close()
            self._started = None
        self.egress.close()
        self._host_threads.close()
        self._function_threads.close()
        self._look_threads.close()
        self._function_loop.close()
        self._starter.close()
        self._host_side.close()
        if self._owns_recorder:
            self.recorder.shutdown()
        living.discard(self)

    def _end_carried_out(self, known: Sequence[Session]) -> None:
        """Have what yeses carry out come to its records, while there is a listener: none waits for its files then."""
        self.plan.builder.give_up_guests()
        deadline = time.monotonic() + _CARRIED_OUT_S
        for session in known:
            if not session.waiting.wait_carried_out(max(0.0, deadline - time.monotonic())):
                _log.warning("a call of sandbox %s that was allowed is carried out still: it has no event", session.id)

    def abandon(self) -> None:
        """In a forked child of the host: it holds copies of descriptors and no threads, and must touch no sandbox."""
        if self._started is not None:
            self._started.abandon()
            self.plan.abandon()
            self.tables.abandon()
            self._started = None
        self.egress.abandon()
        self.state = "closed"
        self._lock, self._starter = threading.RLock(), Starter()
        self._host_threads, self._function_loop = HostThreads(self._starter), HostLoop(self._starter)
        self._function_threads = HostThreads(self._starter, name="pyisolate-function")
        self._look_threads = HostThreads(self._starter, name="pyisolate-look")
        self.registry.abandon(lambda session: session.abandon())
        self.recorder.metrics.remove_supervisor(self)

    def _tables_in_use(self) -> list[Prepared | None]:
        """Return the tables that no other policy may push out."""
        return [session.prepared for session in self.registry.known()]

    def equip(
        self,
        sandbox_id: str,
        on_stdout: OutputCallback | None,
        on_stderr: OutputCallback | None,
        offer: Offer | None,
        asker: Asker | None,
    ) -> None:
        """Give a new sandbox who reads its output, who answers, and the functions that its guest may call."""
        if (session := self.registry.find(sandbox_id)) is not None:
            session.stream_to(on_stdout, on_stderr)
            session.questions.asker = asker
            if offer is not None:
                try:
                    session.offer(offer)
                except BaseException:
                    session.close()
                    raise

    @contextlib.contextmanager
    def entering(self, name: str, compiled: CompiledPolicy) -> Iterator[Entrance | None]:
        """Make a sandbox's way to the egress proxy, where its policy grants by name; taken back where a spawn fails."""
        entrance = self.egress.enter(name, compiled) if by_name(compiled) else None
        try:
            yield entrance
        except BaseException:
            if entrance is not None:
                self.egress.leave(entrance)
            raise

    def admit_to_proxy(self, sandbox_id: str, entrance: Entrance) -> None:
        """Let a new sandbox use the egress proxy by its entrance; it is closed where that fails."""
        if (session := self.registry.find(sandbox_id)) is not None:
            session.denials.proxy, session.waiting.proxy = self.egress.drain, self.egress
            try:
                secrets = injections(session.policy, session.compiled)
                self.egress.admit(sandbox_id, entrance, session.compiled, secrets, Led(*session.kernel.led_as))
            except BaseException:
                session.close()
                raise

    # -- Host -----------------------------------------------------------------------------------------------

    def release(self, sandbox_id: str) -> None:
        """A sandbox was closed: its descriptors and control group go back when its cell is reaped."""
        self.egress.dismiss(sandbox_id)
        session = self.registry.find(sandbox_id)
        if not isinstance(session, CellSession):
            if session is not None:
                self._forget(session)
            self._refill_threads()
            return
        session.control.unwatch()
        self.registry.ending(session)
        if session.channel.owner is not session:
            self._finish(session)  # it never had the cell
        session.released.set()
        self._refill()
        if session.channel.exited.is_set():
            self._release_cell(session.channel)

    def _refill(self) -> None:
        """Replace the cells that were taken: a sandbox has ended, and leaves a processor."""
        if (started := self._started) is None or self.state != "running":
            return
        for standby in list(started.standby.values()):
            standby.refill()

    def _refill_threads(self) -> None:
        """Replace the sandbox threads that were taken: one has ended, and leaves the interpreter's lock."""
        if (started := self._started) is not None and self.state == "running" and started.threads is not None:
            started.threads.refill()

    def authorize(self, token: str | None, operation: str, context: SandboxContext) -> None:
        """Raise PolicyAuthError unless `token` may do `operation` (reload, kill) to a sandbox."""
        self.check_token(token, operation, f"sandbox {context.sandbox}", context)

    def check_token(
        self, token: str | None, operation: str, target: str, context: SandboxContext | None = None
    ) -> None:
        """Raise PolicyAuthError unless `token` may do `operation` to `target`."""
        if token_required():
            check_token(token, operation, target=target, context=context, recorder=self.recorder)

    def reload(self, sandbox_id: str, policy: PolicyLike) -> None:
        """Put another policy in force in one sandbox. Raises EnforcementError where this kernel cannot."""
        session = self.registry.find(sandbox_id)
        if session is None:
            raise SandboxClosed(f"reload policy of sandbox {sandbox_id}: it is closed")
        self.reload_all([session], as_policy("reload_policy: policy", policy))

    def reload_all(self, sessions: Sequence[Session], policy: Policy) -> int:
        """Put another policy in force in each sandbox; return how many."""
        reloader = self.started.reloader
        assert reloader is not None
        return reloader.reload(sessions, policy)

    async def run_blocking(
        self, call: Callable[[], _T], undo: Callable[[_T], object] | None = None, *, inheriting: bool = False
    ) -> _T:
        """Run a blocking call on the supervisor's own threads; see `HostThreads.run`."""
        return await self._host_threads.run(call, undo, inheriting=inheriting)

    def start_call(self, call: Callable[[], None]) -> None:
        """Run a call of a function of the host on a thread that only these use."""
        self._function_threads.start(call)

    def start_look(self, call: Callable[[], None]) -> None:
        """Run a look at a file on a thread that only these use: a file system may keep it."""
        self._look_threads.start(call)

    def start_thread(self, call: Callable[[], object]) -> None:
        """Run a call on a thread of its own, not confined as the caller is. Raises RuntimeError where it cannot."""
        self._starter.start(Thread(target=run_logged, args=(call,), name="pyisolate-program"))

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop for functions of the host that have none of their own."""
        return self._function_loop.get()

    # -- CellEvents -----------------------------------------------------------------------------------------

    def move_cell(self, channel: Channel) -> None:
        """Give a warm cell its control group, before it is handed out. The kernel may take milliseconds."""
        cgroups = None if self._started is None else self._started.cgroups
        if cgroups is None:
            return
        lease = cgroups.lease()
        try:
            lease.add(channel.pid)
        except BaseException:
            lease.release()
            raise
        if not self.registry.keep_lease(channel, lease):
            lease.release()  # it was reaped before this was done, and nothing else would give it back

    def prepare_cell(self, channel: Channel) -> None:
        """Give a warm cell its place at the listener, before it is handed out."""
        if channel.listener is not None:
            descriptor, channel.listener = channel.listener, None
            self.plan.attach_cell(channel.pid, descriptor, channel.asked, channel.turn.account)
            channel.close_asked()
            if channel.released:
                self.plan.detach_cell(channel.pid)

    def cell_served(self, channel: Channel) -> None:
        """The reactor gave a channel its turn."""
        if (started := self._started) is not None:
            for pool in started.pools():
                pool.served(channel)

    def cell_exited(self, channel: Channel, message: Exited | None) -> None:
        """A cell is reaped: account for it and give back what only the kernel held."""
        self.plan.detach_cell(channel.pid)
        owner = channel.owner
        if isinstance(owner, CellSession):
            if owner.standby:
                for standby in [] if self._started is None else list(self._started.standby.values()):
                    standby.drop(owner)
            else:
                cpu_s = _cpu_s(owner, message)
                reason = _exit_reason(owner, channel)
                self.recorder.metrics.exited(
                    sandbox_id=owner.id,
                    policy=owner.context.policy,
                    reason=reason,
                    cpu_s=cpu_s,
                    host_held_s=owner.host_held_s,
                )
            if not owner.released.is_set():
                return  # its descriptors are still read: `release` gives them back
        self._release_cell(channel)

    def _release_cell(self, channel: Channel) -> None:
        """Release a reaped cell's descriptors and control group. Called once or twice, from the side that is last."""
        first, lease = self.registry.reaped(channel)
        if not first:
            return
        if self._started is not None:
            self._started.reactor.remove_channel(channel)
        channel.close()
        if isinstance(owner := channel.owner, CellSession):
            owner.kernel.release_network()
            owner.release_lease()
            self._finish(owner)
        if lease is not None:
            lease.release()

    def _finish(self, session: CellSession) -> None:
        """Finish a reaped sandbox: emit unreported denials, unbind it from the kernel, close its telemetry."""
        session.denials.flush_unreported()
        session.waiting.call_after_begun(lambda: self._forget(session))

    def _forget(self, session: Session) -> None:
        session.kernel.close()
        self.registry.forget(session.id)
        session.denials.close()
        session.finished.set()

    # -- telemetry ------------------------------------------------------------------------------------------

    def telemetry_of(self, context: SandboxContext, kernel: KernelBinding) -> SandboxTelemetry:
        """Return the pipeline through which one sandbox's records become events."""
        traits = self.plan.traits
        who = (traits.uid, traits.gid) if context.isolation == "process" else (os.geteuid(), os.getegid())
        return SandboxTelemetry(
            context,
            self.recorder,
            suggest=AdviceOfHost(*who, unix_paths=not traits.started_by_root),
            expects=self.plan.recorded(context.isolation),
            watches=self.plan.watched(context.isolation),
            probe=kernel.evaluate,
            unavailable=self.plan.why_unavailable,
        )

    def snapshot(self) -> list[SandboxRow]:
        """Return one row per sandbox for the gauges; what their kernel counted is recorded by then."""
        rows = []
        for session in self.registry.live():
            if session.state == "running":  # else the end of its request has settled all
                session.denials.drain_kernel()
            cpu_s, memory_bytes = session.control.gauges() if isinstance(session, CellSession) else (0.0, 0)
            rows.append(
                SandboxRow(
                    sandbox_id=session.id,
                    isolation=session.isolation,
                    state=session.state,
                    policy=session.context.policy,
                    cpu_s=cpu_s,
                    memory_bytes=memory_bytes,
                    host_held_s=session.host_held_s if isinstance(session, CellSession) else 0.0,
                    egress_connections=self.egress.connections(session.id),
                )
            )
        return rows

    def cells(self) -> dict[CellState, int]:
        """Return how many cells wait for a `spawn`, by state."""
        counts = [pool.stock.states() for pool in (() if self._started is None else self._started.pools())]
        ready, standby, starting = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
        return {"ready": ready, "standby": standby, "starting": starting}


def _cpu_s(session: CellSession, message: Exited | None) -> float:
    """Return the processor time that an ended cell took, in seconds.

    What its init reaped, or its control group from the hand-out on, whichever knows of more: where the init is killed,
    the kernel ends the others and their time is in none of its counts.
    """
    reaped_s, lease = 0.0 if message is None else message.cpu_s, session.control.lease
    try:
        return reaped_s if lease is None else max(reaped_s, lease.last_cpu_s())
    except OSError:  # its control group was removed under us
        return reaped_s


def _exit_reason(session: CellSession, channel: Channel) -> str:
    if isinstance(session.ending, LimitExceeded):
        return session.ending.limit
    if channel.ended:
        return "protocol"
    if session.ending is not None and not isinstance(session.ending, SandboxDied):  # its caller may know before this
        return "closed"
    return "died"
