"""The supervisor: spawns sandboxes, watches them, reaps them, and collects what they were refused."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from . import handout
from .asynchronous import HostThreads
from .capability import Capability
from .cell import wire
from .cell.channel import Channel
from .cell.pool import Pool, PoolSettings
from .cell.reactor import Reactor
from .cell.zygote import Exited
from .decision import DenialCode, Verdict
from .default import living
from .errors import LimitExceeded, PolicyError, SandboxError
from .guarding import current_actor
from .handout import CellOrder
from .hostside import HostSide
from .kernel import namespaces
from .kernel.plan import CellTraits, KernelPlan, Prepared
from .kernel.watched import WatchedFiles, let_through
from .limits.cgroup import CgroupLease, CgroupTree
from .limits.usage import Usage
from .limits.watch import SandboxWatch
from .native._result import shortage
from .options import choose_actor, choose_policy, make_recorder, zygote_environment
from .policy import Policy
from .policy.interpreter import InterpreterFiles
from .policy.suggest import suggestion
from .prepared import PreparedPolicies
from .reload import reload
from .result import OutputCallback
from .sandbox import Sandbox
from .spares import Spares
from .telemetry.alerts import AlertRule
from .telemetry.event import Actor, BrokerRecord, DenialEvent, KernelRecord, Reporter, SandboxContext
from .telemetry.merge import merge
from .telemetry.metrics import SandboxRow
from .telemetry.recorder import AlertObserver, Recorder
from .telemetry.sandbox import SandboxTelemetry
from .telemetry.sink import EventSink
from .telling import telling, told

_log = logging.getLogger("pyisolate.supervisor")
_T = TypeVar("_T")
#: nobody:nogroup on Debian; the cell's uid when the supervisor runs as root.
CELL_UID = 65534


class Supervisor:
    """Owns a zygote, a pool of warm cells, the enforcers and the telemetry of its sandboxes. A context manager.

    `pool_size`: warm cells to keep. `preload`: modules that the zygote imports for all. `cell_uid`, `cell_gid`: whom
    cells run as when the supervisor is root (default 65534); files that a guest shall read or write must be open to
    that user. `kernel_events_per_s`: records a second of one sandbox that the BPF programs send (all are counted).
    `telemetry="full"` also shows the notification listener what native code opens (about 8 us a call).
    `network`: `auto` lets cgroup-BPF programs decide connections where root may load them, `listener` asks for none.
    `audit` (a path, or an AuditLog), `sinks` (default: the process's) and `alerts` (rules, or an AlertEngine) say where
    events go besides store and counters, and are closed with the supervisor; `recorder` replaces all three.
    """

    def __init__(
        self,
        *,
        pool_size: int = 4,
        preload: tuple[str, ...] | list[str] = (),
        cell_uid: int | None = None,
        cell_gid: int | None = None,
        telemetry: str = "default",
        kernel_events_per_s: int = 1000,
        network: str = "auto",
        audit: str | os.PathLike[str] | EventSink | None = None,
        sinks: Sequence[EventSink] | None = None,
        alerts: Iterable[AlertRule] | AlertObserver | None = None,
        recorder: Recorder | None = None,
        plan: KernelPlan | None = None,
    ) -> None:
        if telemetry not in ("default", "full"):
            raise ValueError(f"telemetry: {telemetry!r}: must be 'default' or 'full'")
        if network not in ("auto", "listener"):
            raise ValueError(f"network: {network!r}: must be 'auto' or 'listener'")
        if recorder is not None and not (audit is None and sinks is None and alerts is None):
            raise ValueError("recorder: it has its own audit log, sinks and alerts: give them to it")
        self._owns_recorder = recorder is None
        self.recorder = recorder if recorder is not None else make_recorder(audit, sinks, alerts)
        self.reactor = Reactor()
        self._pool_size, self._preload, self._network = pool_size, tuple(preload), network
        root = os.geteuid() == 0
        uid = cell_uid if cell_uid is not None else (CELL_UID if root else os.getuid())
        gid = cell_gid if cell_gid is not None else (CELL_UID if root else os.getgid())
        if root and uid == 0:
            raise ValueError("cell_uid: 0: cells never run as root")
        self._traits = CellTraits(
            uid=uid,
            gid=gid,
            started_by_root=root,
            full_telemetry=telemetry == "full",
            kernel_events_per_s=kernel_events_per_s,
        )
        self._plan = plan if plan is not None else KernelPlan(self._traits, self._on_kernel_record)
        self.tables = PreparedPolicies(self._plan, self._tables_in_use)
        self._watched = WatchedFiles()
        self._pool: Pool | None = None
        self._native_pool: Pool | None = None
        #: by the pool they come from: whether its cells are on the host's network
        self._spares: dict[bool, Spares] = {}
        self._cgroups: CgroupTree | None = None
        self._cgroup_reason = ""
        self.watch = SandboxWatch(self)
        self._leases: dict[int, CgroupLease] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        #: closed, and their cells not reaped yet: records of theirs may still come
        self._ending: dict[str, Sandbox] = {}
        self._threads: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._hostside: HostSide | None = None
        self._host_threads = HostThreads()
        self._state = "new"
        living.add(self)

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Prove the enforcers, start the zygote, fill the pool. `spawn` does it when needed."""
        if self._state == "running":
            return self
        with self._lock:
            if self._state == "running":
                return self
            if self._state == "closed":
                raise SandboxError("start supervisor: it is closed")
            try:
                self._start()
            except BaseException as error:
                self._stop()
                raise told("start supervisor", error) from error
            self._state = "running"
        return self

    def _start(self) -> None:
        if self.reactor.stopped:
            self.reactor = Reactor()  # an earlier start failed
        if self._traits.started_by_root and not namespaces.maps_uid(self._traits.uid):
            raise SandboxError(
                f"start supervisor: uid {self._traits.uid}, which cells run as, is not mapped in this user namespace",
                hint="map a range of uids (rootless containers do), pass cell_uid=, or run as an ordinary user",
            )
        self._plan.start()
        self.tables.interpreter = InterpreterFiles.discover()
        self._cgroups, found = CgroupTree.open()
        self._cgroup_reason = found.reason
        self._plan.availability[found.enforcer] = found
        held = self._plan.start_network(self._cgroups) if self._network == "auto" else ()
        for one in self._plan.availability.values():
            # A probe that met a shortage has proven nothing; what it found must not be kept.
            if not one.usable and (number := shortage(one.reason)) is not None:
                raise OSError(number, f"probe {one.enforcer}: {one.reason}")
        settings = PoolSettings(
            size=self._pool_size,
            preload=self._preload,
            spec=self._plan.cell_spec(),
            drop_privileges=self._traits.started_by_root,
            environment=zygote_environment(),
        )
        self._pool = Pool(settings, self.reactor, self._prepare_cell, self._cell_exited)
        if held:
            # Its zygote starts with the first sandbox that connects somewhere.
            others = replace(settings, spec=self._plan.native_spec(), held=held)
            self._native_pool = Pool(others, self.reactor, self._prepare_cell, self._cell_exited)
        self._spares[False] = Spares(self, self._pool)
        if self._native_pool is not None:
            self._spares[True] = Spares(self, self._native_pool, native=True)
        self.reactor.start(self._served)
        self._pool.start()
        for spares in self._spares.values():
            spares.start()
        self.watch.start()
        self.recorder.metrics.add_supervisor(self)

    def _stop(self) -> None:
        """Give back what `_start` took, all or a part of it."""
        for spares in self._spares.values():
            spares.close()
        self._spares.clear()
        for pool in (self._pool, self._native_pool):
            if pool is not None:
                pool.close()
        self.reactor.stop()
        self.recorder.metrics.remove_supervisor(self)
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()
        self.tables.close()
        self._plan.close()
        if self._cgroups is not None:
            self._cgroups.close()
        self._pool = self._native_pool = self._cgroups = None

    def close(self) -> None:
        """End every sandbox, the zygote and all threads; give back every cgroup, descriptor and mount."""
        with self._lock:
            if self._state == "closed":
                return
            self._state = "closed"
        for sandbox in [*self._sandboxes.values(), *self._threads.values()]:
            sandbox.close()
        self.watch.stop()
        self._stop()
        self._host_threads.close()
        if self._hostside is not None:
            self._hostside.close()
        if self._owns_recorder:
            self.recorder.shutdown()
        living.discard(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sandboxes(self) -> list[Any]:
        """Every sandbox that is not closed, oldest first."""
        with self._lock:
            return [*self._sandboxes.values(), *self._threads.values()]

    @property
    def plan(self) -> KernelPlan:
        """The enforcers in use, with the probes that proved them."""
        return self._plan

    # -- spawn ----------------------------------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        policy: Policy | str | None = None,
        *,
        isolation: str = "process",
        limits: Mapping[str, Any] | None = None,
        mode: str | None = None,
        enforcement: str = "strict",
        actor: Mapping[str, str] | Actor | None = None,
        require_actor: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        allowed_imports: list[str] | tuple[str, ...] | None = None,
        shadow: Policy | str | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Any:
        """Return a running sandbox for one guest.

        `policy`: a Policy or a preset's name (default `compute`). `limits`: the keys of `Policy.with_limits`.
        `mode`: overrides the policy's. `shadow`: a second policy that refuses nothing; what it would refuse is recorded
        (`event.shadow`). `actor`: on whose behalf (default: that of `acting_as`). `enforcement`: `strict` raises
        EnforcementError when the kernel cannot enforce a rule as stated, `best_effort` goes on and says so in
        `sandbox.enforcement`. `isolation`: `process` (a boundary) or `thread` (a guard rail). `env`: the guest's whole
        environment. `cwd`: its working directory (default `/`).
        """
        started = time.perf_counter()
        if enforcement not in ("strict", "best_effort"):
            raise ValueError(f"enforcement: {enforcement!r}: must be 'strict' or 'best_effort'")
        if isolation not in ("process", "thread"):
            raise ValueError(f"isolation: {isolation!r}: must be 'process' or 'thread'")
        self.start()
        chosen = choose_policy(policy, limits, mode, allowed_imports)
        who = choose_actor(actor)
        with self._prepared(name, chosen, isolation, enforcement, shadow) as prepared:
            context = SandboxContext(
                sandbox=name,
                sandbox_id=secrets.token_hex(8),
                policy=chosen.name,
                policy_version=chosen.version,
                policy_generation=prepared.compiled.generation,
                isolation=isolation,
                mode=prepared.compiled.mode,
                actor=who,
            )
            if who is None and require_actor:
                event = self._refuse_without_actor(context)
                raise PolicyError(
                    f"spawn {name!r}: no actor was given",
                    denial_event=event,
                    hint="pass actor={'kind': ..., 'id': ...}",
                )
            with telling(f"spawn {name!r}"):
                if isolation == "thread":
                    sandbox: Any = self._spawn_thread(name, chosen, prepared, context, on_stdout, on_stderr)
                else:
                    order = CellOrder(chosen, prepared, enforcement)
                    sandbox = self._spawn_cell(context, order, dict(env or {}), cwd or "/", on_stdout, on_stderr)
        self.recorder.metrics.set_enforcement(sandbox.enforcement)
        self.recorder.metrics.spawned(time.perf_counter() - started)
        return sandbox

    @contextlib.contextmanager
    def _prepared(
        self, name: str, policy: Policy, isolation: str, enforcement: str, shadow: Policy | str | None
    ) -> Iterator[Prepared]:
        """Hold the kernel tables of a policy, and of its shadow, until the sandbox has them."""
        with contextlib.ExitStack() as held:
            with telling(f"spawn {name!r}: prepare policy {policy.name!r}"):
                prepared = held.enter_context(self.tables.hold(policy, isolation, enforcement))
                if shadow is not None:
                    watching = choose_policy(shadow, None, None, None)
                    prepared = held.enter_context(self.tables.hold_shadowed(prepared, watching))
            yield prepared

    def _spawn_cell(
        self,
        context: SandboxContext,
        order: CellOrder,
        env: dict[str, str],
        cwd: str,
        on_stdout: OutputCallback | None,
        on_stderr: OutputCallback | None,
    ) -> Sandbox:
        """Hand out a spare where one fits, a warm cell otherwise."""
        spares = self._spares[self._plan.is_native(order.prepared)]
        self._plan.require_listener()  # a spare was bound while it lived
        sandbox = spares.take(order) if cwd == "/" else None
        if sandbox is None or not handout.adopt(sandbox, context, order, env):
            sandbox = handout.spawn_cell(self, context, order, env, cwd)
        sandbox.stream_to(on_stdout, on_stderr)
        spares.spawned(order)
        return sandbox

    def _spawn_thread(
        self,
        name: str,
        policy: Policy,
        prepared: Prepared,
        context: SandboxContext,
        on_stdout: OutputCallback | None,
        on_stderr: OutputCallback | None,
    ) -> Any:
        from .thread import SandboxThread

        sandbox = SandboxThread(self, name, policy, prepared, context, on_stdout, on_stderr)
        with self._lock:
            self._threads[sandbox.id] = sandbox
        return sandbox

    def _tables_in_use(self) -> list[Prepared | None]:
        """Return the tables that no other policy may push out."""
        with self._lock:
            spare = [sandbox for spares in self._spares.values() for sandbox in spares.sandboxes]
            return [sandbox.prepared for sandbox in (*self.sandboxes, *spare)]

    # -- cells ----------------------------------------------------------------------------------------------

    def _prepare_cell(self, channel: Channel) -> None:
        """Give a warm cell its cgroup and its place at the listener, before it is handed out."""
        if self._cgroups is not None:
            lease = self._cgroups.lease()
            try:
                lease.add(channel.pid)
            except BaseException:
                lease.release()
                raise
            with self._lock:
                gone = channel.released
                if not gone:
                    self._leases[channel.pid] = lease
            if gone:  # another thread saw its zygote die: nobody would ever give this back
                lease.release()
                return
        if channel.listener is not None:
            descriptor, channel.listener = channel.listener, None
            self._plan.attach_cell(channel.pid, descriptor, channel.asked)
            channel.close_asked()
            if channel.released:
                self._plan.detach_cell(channel.pid)

    def _served(self, channel: Channel) -> None:
        for native, pool in ((False, self._pool), (True, self._native_pool)):
            if pool is not None and pool.served(channel) and native in self._spares:
                self._spares[native].look()

    def _cell_exited(self, channel: Channel, message: Exited | None) -> None:
        """A cell is reaped: account for it and give back what only the kernel held."""
        self._plan.detach_cell(channel.pid)
        owner = channel.owner
        if isinstance(owner, Sandbox):
            if owner.spare:
                for spares in list(self._spares.values()):
                    spares.drop(owner)
            cpu_s = 0.0 if message is None else message.cpu_s
            if not owner.spare:
                self.recorder.metrics.exited(
                    sandbox_id=owner.id, policy=owner._context.policy, reason=_exit_reason(owner, channel), cpu_s=cpu_s
                )
            if not owner.forgotten.is_set():
                return  # its descriptors are still read: `forget` releases them
        self._release(channel)

    def _release(self, channel: Channel) -> None:
        """Release a reaped cell's descriptors and cgroup. Called once or twice, from whichever side comes last."""
        with self._lock:
            if channel.released:
                return
            channel.released = True
            lease = self._leases.pop(channel.pid, None)
        self.reactor.remove_channel(channel)
        channel.close()
        if isinstance(channel.owner, Sandbox):
            self._plan.detach_network(channel.owner.id)
            channel.owner.let_go()
            self._finish(channel.owner)
        if lease is not None:
            lease.release()

    def forget(self, sandbox: Sandbox) -> None:
        """A sandbox was closed: its descriptors and cgroup go back when its cell is reaped, without waiting here."""
        self.watch.unwatch(sandbox)
        with self._lock:
            self._sandboxes.pop(sandbox.id, None)
            self._ending[sandbox.id] = sandbox
        if sandbox._channel.owner is not sandbox:
            self._finish(sandbox)  # it never had the cell
        sandbox.forgotten.set()
        if sandbox._channel.exited.is_set():
            self._release(sandbox._channel)

    def _finish(self, sandbox: Sandbox) -> None:
        """Its cell is gone, and what it had said is read: what enforcers know of it is told, and all is forgotten."""
        sandbox.tell_untold()
        self._plan.unbind(sandbox.id)
        with self._lock:
            self._ending.pop(sandbox.id, None)
        sandbox.telemetry.close()
        sandbox.finished.set()

    def hostside(self) -> HostSide:
        """Return the thread that does the host's work for sandbox threads."""
        with self._lock:
            if self._hostside is None:
                self._hostside = HostSide()
            return self._hostside

    def forget_thread(self, sandbox_id: str) -> None:
        """A sandbox thread was closed."""
        with self._lock:
            sandbox = self._threads.pop(sandbox_id, None)
        if sandbox is not None:
            sandbox.telemetry.close()

    # -- readings -------------------------------------------------------------------------------------------

    def usage_of(self, sandbox: Sandbox) -> Usage | None:
        """Return what the sandbox's processes use now, None when it is gone."""
        lease = sandbox._lease
        try:
            return lease.usage() if lease is not None else sandbox.tree.read()
        except (OSError, ProcessLookupError):
            return None

    def limit_behind(self, sandbox: Sandbox, answer: wire.Failed) -> LimitExceeded | None:
        """Return the limit that an uncaught OSError or MemoryError of the guest stands for, or None."""
        from .limits.behind import limit_behind

        return limit_behind(self, sandbox, answer)

    # -- telemetry ------------------------------------------------------------------------------------------

    def telemetry_of(self, context: SandboxContext) -> SandboxTelemetry:
        """Return the pipeline through which one sandbox's records become events."""
        return SandboxTelemetry(
            context,
            self.recorder,
            suggest=suggestion,
            expects=self._plan.recorded(context.isolation),
            probe=self._plan.probe_of(context.sandbox_id),
            unavailable=self._plan.why_unavailable,
        )

    def _on_kernel_record(self, record: KernelRecord) -> None:
        name = record.sandbox_id
        sandbox = self._sandboxes.get(name) or self._threads.get(name) or self._ending.get(name)
        if sandbox is None:
            _log.warning("a %s record came for the unknown sandbox %s", record.enforcer, record.sandbox_id)
            self.recorder.lost("unattributed", record.count)
            return
        if record.verdict is Verdict.WOULD_DENY:
            named = let_through(record)
            if named is None:
                return
            record = named
        if self._traits.full_telemetry and isinstance(sandbox, Sandbox):
            absent_only = self._plan.bpf.observer is not None
            record = self._watched.judge(record, sandbox._compiled, absent_only=absent_only)
        # Tables are shared by sandboxes that reloaded a different number of times: the sandbox's own count is the one.
        sandbox.on_kernel_record(msgspec.structs.replace(record, generation=0))

    def _refuse_without_actor(self, context: SandboxContext) -> DenialEvent:
        record = BrokerRecord(
            sequence=0,
            capability=Capability.CONTROL_GUARD,
            target=context.sandbox,
            verdict=Verdict.DENY,
            code=DenialCode.ACTOR_REQUIRED,
            reason="an actor is required and none was given",
            monotonic_ns=time.monotonic_ns(),
        )
        return self.recorder.record(merge(context, record, None, broker_reporter=Reporter.SUPERVISOR))

    def record_limit(self, sandbox: Any, capability: Capability, target: str, reason: str) -> DenialEvent:
        """Record that a limit was reached, as the supervisor saw it."""
        record = KernelRecord(
            sandbox_id=sandbox.id,
            enforcer="supervisor",
            hook="limit",
            capability=capability,
            target=target,
            verdict=Verdict.DENY,
            code=DenialCode.LIMIT_EXCEEDED,
            reason=reason,
            pid=sandbox.pid,
            monotonic_ns=time.monotonic_ns(),
        )
        events: list[DenialEvent] = sandbox.on_kernel_record(record)
        return events[-1]

    def settle(self, sandbox: Any) -> None:
        """Take in every record up to now: after it, the sandbox's events are complete as far as can be known."""
        self._plan.drain(sandbox.id)
        sandbox.note_events(sandbox.telemetry.settle())
        self._plan.tell_unnamed(sandbox.id, sandbox.pid)

    def snapshot(self) -> list[SandboxRow]:
        """Return one row per sandbox for the gauges (metrics collector); what their kernel counted is told by then."""
        rows = []
        for sandbox in self.sandboxes:
            if sandbox._state == "running":  # else the end of its request has told of all
                self._plan.drain(sandbox.id)
                self._plan.tell_unnamed(sandbox.id, sandbox.pid)
            cpu_s, memory_bytes = self.watch.gauges(sandbox) if sandbox.isolation == "process" else (0.0, 0)
            rows.append(
                SandboxRow(
                    sandbox_id=sandbox.id,
                    isolation=sandbox.isolation,
                    state=sandbox._state,
                    policy=sandbox._context.policy,
                    cpu_s=cpu_s,
                    memory_bytes=memory_bytes,
                )
            )
        return rows

    # -- reload ---------------------------------------------------------------------------------------------

    def reload_policy(self, name: str, policy: Policy, token: str | None = None) -> int:
        """Reload every live sandbox whose policy is called `name`; return how many. See `Sandbox.reload_policy`."""
        self._check_token(token, "reload", f"policy {name}")
        chosen = [one for one in self.sandboxes if one._context.policy == name and not one.closed]
        return reload(self, chosen, policy)

    def reload_sandbox(self, sandbox: Sandbox, policy: Policy, token: str | None) -> None:
        """Reload one sandbox; see `Sandbox.reload_policy`."""
        self.check_token(sandbox, token, "reload")
        reload(self, [sandbox], policy)

    def kill(self, name: str, token: str | None = None) -> int:
        """Kill every live sandbox called `name`; return how many. Raises PolicyAuthError for a wrong token."""
        self._check_token(token, "kill", f"sandbox {name}")
        doomed = [sandbox for sandbox in self.sandboxes if sandbox.name == name and not sandbox.closed]
        for sandbox in doomed:
            sandbox.end("killed by the host")
        return len(doomed)

    def check_token(self, sandbox: Any, token: str | None, operation: str) -> None:
        """Raise PolicyAuthError unless `token` may do `operation` (reload, kill) to a sandbox."""
        self._check_token(token, operation, f"sandbox {sandbox.name}", sandbox._context)

    def _check_token(
        self, token: str | None, operation: str, target: str, context: SandboxContext | None = None
    ) -> None:
        from .control import check_token, token_required

        if token_required():
            check_token(token, operation, target=target, context=context, recorder=self.recorder)

    # -- asyncio --------------------------------------------------------------------------------------------

    async def in_thread(self, function: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """Run a blocking call on the supervisor's own threads; see `HostThreads.run`."""
        return await self._host_threads.run(function, undo)

    async def aspawn(self, name: str, policy: Policy | str | None = None, **options: Any) -> Any:
        """Like `spawn`, without blocking the event loop."""
        if options.get("actor") is None:
            options["actor"] = current_actor()  # of this task: a thread of the pool has none
        # Cancelled meanwhile, nobody would ever close it.
        return await self.in_thread(lambda: self.spawn(name, policy, **options), undo=lambda late: late.close())

    def after_fork_in_child(self) -> None:
        """The host forked: the child holds copies of descriptors and no threads; it must touch no sandbox."""
        if self._state == "running":
            for pool in (self._pool, self._native_pool):
                if pool is not None:
                    pool.abandon()
            for spares in self._spares.values():
                spares.abandon()
            self.reactor.abandon()
            self._plan.abandon()
            if self._cgroups is not None:
                self._cgroups.abandon()  # its locks say that this supervisor lives: they are the parent's alone
            self.tables.abandon()
        self._state = "closed"
        self._lock, self._host_threads = threading.RLock(), HostThreads()
        for sandbox in [*self._sandboxes.values(), *self._threads.values(), *self._ending.values()]:
            sandbox.abandon()
        for remembered in (self._sandboxes, self._threads, self._ending, self._leases):
            remembered.clear()
        self.recorder.metrics.remove_supervisor(self)


def _exit_reason(sandbox: Sandbox, channel: Channel) -> str:
    ending = sandbox._ending
    if isinstance(ending, LimitExceeded):
        return ending.limit
    if channel.ended:
        return "protocol"
    if ending is not None:
        return "closed"
    return "died"
