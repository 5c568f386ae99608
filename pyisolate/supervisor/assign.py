"""Hand-out: a warm cell becomes a sandbox. The cell confines itself for the policy, says so, and is bound to it.

No guest code runs before all of it has succeeded. A standby cell (see `standby`) went through the same before `spawn`
asked for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ..cell import wire
from ..cell.outbox import Backlog
from ..choices import STANDBY, Enforcement, Isolation
from ..errors import EnforcementError, SandboxDied, SandboxError
from ..limits import rlimit
from ..policy import workspace
from ..records import SandboxContext
from ..sandbox.cell_session import CellSession
from ..sandbox.process import Sandbox
from ..sandbox.workspace import Workspace
from .options import GUEST_ENVIRONMENT

if TYPE_CHECKING:
    from ..cell.channel import Answer, Channel
    from ..cell.pool import Pool
    from ..cell.reactor import Reactor
    from ..kernel.binding import KernelBinding
    from ..kernel.plan import KernelPlan
    from ..kernel.prepared import Prepared
    from ..kernel.rootview.tree import Staged
    from ..limits.watchdog import Watchdog
    from ..policy import Policy
    from ..policy.compiled import CompiledPolicy
    from ..sandbox.host import Host
    from ..telemetry.metrics import SpawnSource
    from ..telemetry.pipeline import SandboxTelemetry
    from .closer import Closer
    from .given_directory import GivenDirectory
    from .registry import Registry

#: A cell answers `Init` within microseconds; one that has not by then is broken (seconds).
HANDOUT_TIMEOUT_S = 10.0


class CellOrder(msgspec.Struct, frozen=True, eq=False):
    """What a sandbox in a cell is to be: its policy, the kernel's tables of it, how strict, environment and cwd."""

    policy: Policy
    prepared: Prepared
    enforcement: Enforcement
    env: dict[str, str]
    #: None: the workspace, or "/" without one
    cwd: str | None
    #: the host's directory that is to be shown in the workspace, and where the guest starts
    given: GivenDirectory | None = None
    #: the guest starts in a directory of its workspace that is to be a copy of the host's
    copied: bool = False

    @property
    def key(self) -> tuple[int, str]:
        """Equal for orders that the same standby cell can serve."""
        return id(self.prepared), self.enforcement

    @property
    def environment(self) -> dict[str, str]:
        """The guest's environment: the same for all, what leads to its workspace and packages, what was asked for."""
        compiled = self.prepared.compiled
        own = workspace.ENVIRONMENT if compiled.workspace_bytes is not None else {}
        merged = {**GUEST_ENVIRONMENT, **own, **self.env}
        if compiled.site is not None:  # for interpreters that the guest starts
            merged["PYTHONPATH"] = os.pathsep.join(filter(None, (self.env.get("PYTHONPATH"), compiled.site.path)))
        return merged

    @property
    def broker_policy(self) -> CompiledPolicy:
        """What the guest's broker decides by."""
        compiled = self.prepared.compiled
        return compiled if self.given is None else msgspec.structs.replace(compiled, shared_workspace=True)

    @property
    def directory(self) -> str:
        """Where the guest starts."""
        if self.cwd is not None:
            return self.cwd
        if self.given is not None or self.copied:
            return workspace.PROJECT
        return workspace.HOME if self.prepared.compiled.workspace_bytes is not None else "/"


class Records(msgspec.Struct, frozen=True):
    """Makes the two ends of one sandbox's records: its telemetry, and its place at the enforcers. Counts spawns."""

    telemetry: Callable[[SandboxContext, KernelBinding], SandboxTelemetry]
    kernel: Callable[[str], KernelBinding]
    count_spawn: Callable[[SpawnSource], None]


def standby_context(policy: Policy, compiled: CompiledPolicy, isolation: Isolation) -> SandboxContext:
    """Return what records say of a sandbox that no `spawn` has taken yet: it has a number, and no name of its own."""
    return SandboxContext(
        sandbox=STANDBY,
        sandbox_id=os.urandom(8).hex(),
        policy=policy.name,
        policy_version=policy.version,
        policy_generation=compiled.generation,
        isolation=isolation,
        mode=compiled.mode,
    )


class _Ahead:
    """What a sandbox needs beside its cell: made while that is forked, where none is warm.

    Its end of the records, which holds nothing yet, and the tree of it alone, where its policy has such: that is closed
    where no hand-out takes it.
    """

    def __init__(self, plan: KernelPlan, records: Records, context: SandboxContext, order: CellOrder) -> None:
        self._plan, self._records, self._context, self._order = plan, records, context, order
        self._ends: tuple[SandboxTelemetry, KernelBinding] | None = None
        self._tree: tuple[Staged | None, int | None] | None = None

    def make(self) -> None:
        """Make both, once. Raises EnforcementError, OSError."""
        self._ends = self.ends()
        self._tree = self._tree or self._make_tree()

    def ends(self) -> tuple[SandboxTelemetry, KernelBinding]:
        """Return the sandbox's end of its records, and its place at the enforcers, which is empty yet."""
        if self._ends is not None:
            return self._ends
        kernel = self._records.kernel(self._context.sandbox_id)
        return self._records.telemetry(self._context, kernel), kernel

    def take_tree(self) -> tuple[Staged | None, int | None]:
        """Return the tree, and a mount of the host's directory in it: the caller's, who takes them once."""
        made, self._tree = self._tree or self._make_tree(), None
        return made

    def close(self) -> None:
        """Close a tree that was not taken."""
        staged, given = self._tree or (None, None)
        self._tree = None
        if staged is not None:
            staged.close()
        if given is not None:
            os.close(given)

    def _make_tree(self) -> tuple[Staged | None, int | None]:
        given = self._directory()
        try:
            return self._order.prepared.stage(given), given
        except BaseException:
            if given is not None:
                os.close(given)
            raise

    def _directory(self) -> int | None:
        prepared, given = self._order.prepared, self._order.given
        if given is None:
            return None
        runs = workspace.is_mounted_to_run(prepared.compiled, programs_decide=prepared.programs_decide)
        return self._plan.builder.directory(*given, runs=runs)


class Assigner:
    """Hands out the warm cells of one supervisor."""

    def __init__(
        self,
        host: Host,
        plan: KernelPlan,
        reactor: Reactor,
        registry: Registry,
        watchdog: Watchdog,
        records: Records,
        cgroup_reason: str,
        closer: Closer,
        *,
        has_cgroups: bool,
    ) -> None:
        self._host, self._plan, self._reactor, self._registry = host, plan, reactor, registry
        self._watchdog, self._records, self._cgroup_reason = watchdog, records, cgroup_reason
        self._closer = closer
        #: every cell has a control group, or is never handed out
        self._has_cgroups = has_cgroups

    def spawn(self, pool: Pool, context: SandboxContext, order: CellOrder, *, native: bool) -> Sandbox:
        """Hand out a warm cell; forks one where none is ready."""
        policy = order.prepared.unshadowed if order.given is None else None  # the policy zygote has another broker
        forks = order.prepared.forks
        with contextlib.closing(_Ahead(self._plan, self._records, context, order)) as ahead:
            ready = pool.take_ready(policy=policy, forks=forks)
            channel = ready or pool.take(policy=policy, forks=forks, ordered=ahead.make)
            try:
                session = self._session(channel, context, order, ahead)
                handle = self._registry.add_cell(session)
                self._hand_out(session, order, ahead, native=native)
                self._records.count_spawn("forked" if ready is None else "warm")
                return handle
            finally:
                pool.refill_if_low()

    def stand_by(self, channel: Channel, order: CellOrder, *, native: bool) -> CellSession:
        """Hand out a warm cell ahead of `spawn`: `adopt` gives it its name."""
        context = standby_context(order.policy, order.prepared.compiled, "process")
        ahead = _Ahead(self._plan, self._records, context, order)
        session = self._session(channel, context, order, ahead, standby=True)
        session.environment = order.environment
        self._registry.add_standby(session)
        self._hand_out(session, order, ahead, native=native)
        return session

    def adopt(self, session: CellSession, context: SandboxContext, order: CellOrder) -> Sandbox | None:
        """Give a standby cell its name, environment and owner; None when it has died since."""
        session.adopt_identity(msgspec.structs.replace(context, sandbox_id=session.id), order.policy)
        environment = order.environment
        frame = wire.Begin(
            sandbox=context.sandbox, environment=None if environment == session.environment else environment
        )
        handle = self._registry.add_cell(session)
        session.channel.send_with_next(frame)
        if session.channel.ended is not None:
            session.close()
            return None
        session.control.watch()
        self._records.count_spawn("standby")
        return handle

    def _session(
        self, channel: Channel, context: SandboxContext, order: CellOrder, ahead: _Ahead, *, standby: bool = False
    ) -> CellSession:
        telemetry, kernel = ahead.ends()
        return CellSession(
            self._host,
            order.policy,
            order.prepared,
            context,
            telemetry,
            kernel,
            channel=channel,
            reactor=self._reactor,
            watchdog=self._watchdog,
            lease=self._registry.lease_of(channel.pid),
            standby=standby,
        )

    def _hand_out(self, session: CellSession, order: CellOrder, ahead: _Ahead, *, native: bool) -> None:
        """Confine a session's cell and bind it to its policy. Raises SandboxDied, EnforcementError."""
        try:
            session.control.apply(order.prepared.compiled.limits)
            answer = self._confine(session, order, ahead, native=native)
            self._report(session, order, answer, native=native)
            try:  # the listener decides by the policy from here on; only now may guest code run
                self._bind(session)
            except KeyError:
                raise session.death() from None  # it was reaped since it answered
            if not session.standby:
                session.state = "idle"
                session.control.watch()
        except BaseException:
            session.close()
            raise

    @staticmethod
    def _bind(session: CellSession) -> None:
        own = session.workspace
        if own is None:
            session.kernel.bind_cell(session.pid)
            return
        with own.memory() as top:  # others may have sockets in a directory of the host's
            session.kernel.bind_cell(session.pid, top, shared=own.hosts)

    def _confine(self, session: CellSession, order: CellOrder, ahead: _Ahead, *, native: bool) -> wire.Ready:
        """Send the cell what it needs and wait until it says that all of it is applied."""
        channel, prepared = session.channel, order.prepared
        named = prepared.descriptors()
        slots = session.kernel.open(prepared, host_network=native)
        if slots is not None:
            named["slots"] = slots[0]
        with contextlib.ExitStack() as sent:
            staged, given = ahead.take_tree()
            if given is not None:
                sent.callback(os.close, given)
            if staged is not None:
                sent.callback(self._closer.close_later, staged.tree)
                session.waiting.starting.gates = staged.gates
                if staged.workspace is not None:
                    session.workspace = Workspace(staged.workspace, session.name, given)
                    if order.copied:
                        session.workspace.make_project()
                named["root view"] = staged.tree
            answer = self._initialise(session, order, named, slots[1] if slots is not None else 0)
        if isinstance(answer, wire.Ready):
            return answer
        channel.exited.wait(0.2 if channel.ended is not None else 0)
        if channel.ended is not None:
            raise session.control.what_killed(channel.exit_status) or session.death()
        raise SandboxDied(f"spawn {session.name!r}: the cell did not confine itself within {HANDOUT_TIMEOUT_S} s")

    def foresee(self, order: CellOrder) -> wire.Init:
        """Return the hand-out that standby cells from the policy's own zygote will get, where no BPF-LSM is.

        Such a cell takes any other as well; it then has more to do. On demand it gets this one too, and a name later.
        """
        names = tuple(order.prepared.descriptors())
        return self._init(STANDBY, order, names, leased=self._has_cgroups, ahead=True)

    def _init(
        self,
        name: str,
        order: CellOrder,
        names: tuple[str, ...],
        *,
        leased: bool,
        ahead: bool,
        policy: CompiledPolicy | None = None,
        slot_page: int = 0,
    ) -> wire.Init:
        prepared = order.prepared
        return wire.Init(
            sandbox=name,
            policy=policy,
            slot_page=slot_page,
            shadow=prepared.shadow,
            descriptors=names,
            environment=order.environment,
            working_directory=order.directory,
            rlimits=rlimit.triples(
                prepared.compiled.limits, cgroup_memory=leased, own_user_namespace=self._plan.usable("namespaces")
            ),
            host_tag=sys.implementation.cache_tag or "",
            ahead=ahead,
        )

    def _initialise(
        self, session: CellSession, order: CellOrder, named: dict[str, int], slot_page: int
    ) -> Answer | None:
        """Send the descriptors in their order, and return what the cell answers in time."""
        channel = session.channel
        leased = session.control.lease is not None
        foreseen = channel.made_for is order.prepared.compiled
        name = STANDBY if foreseen else session.name
        ahead, policy = foreseen or session.standby, None if foreseen else order.broker_policy
        init = self._init(name, order, tuple(named), leased=leased, ahead=ahead, policy=policy, slot_page=slot_page)
        with self._reactor.borrow(channel):
            channel.owner = session
            try:
                channel.conversation.start_handout()
                channel.send(init, list(named.values()))
                if name != session.name:
                    channel.send_with_next(wire.Begin(sandbox=session.name))
                return channel.wait_answer(time.monotonic() + HANDOUT_TIMEOUT_S)
            except (Backlog, wire.WireError) as error:
                raise SandboxDied(f"spawn {session.name!r}: {error}") from None

    def _report(self, session: CellSession, order: CellOrder, answer: wire.Ready, *, native: bool) -> None:
        """Let BPF programs decide where they do, and write down who enforces what. Strict: nothing may be missing."""
        channel, kernel, lease = session.channel, session.kernel, session.control.lease
        steps = (*channel.steps, *answer.steps)
        if kernel.attach_task(channel.pid):
            steps = (*steps, "bpf-lsm")
        if native:
            kernel.attach_network(lease)
            steps = (*steps, "cgroup-bpf")
        _check_directory(session.name, order, answer)
        failed = (*channel.failed_steps, *(one for one in answer.failed if one[0] != "working directory"))
        report = session.report = kernel.report(
            "process",
            order.enforcement,
            steps,
            failed,
            has_cgroup=lease is not None,
            cgroup_reason=self._cgroup_reason,
        )
        if order.given is not None:
            session.report = order.given.reported(report)
        if report.missing and channel.exited.is_set():
            raise session.death()  # its zygote died with the listener's descriptor: its calls failed for that
        if report.missing:
            self._plan.require_listener()  # else its calls fail in ways that name anything but the listener
        if order.enforcement == "strict" and report.missing:
            raise EnforcementError(
                f"spawn {session.name!r}: {'; '.join(report.missing)}",
                missing=report.missing[0],
                hint="run `pyisolate doctor`, or pass enforcement='best_effort' to accept less",
            )


def _check_directory(name: str, order: CellOrder, answer: wire.Ready) -> None:
    """Raise SandboxError where the directory that was asked for cannot be entered: the guest would be elsewhere."""
    why = dict(answer.failed).get("working directory")
    if why is not None and order.cwd is not None:
        raise SandboxError(
            f"spawn {name!r}: cwd {order.cwd}: {why}",
            hint="make it, and let the policy read it; without cwd= a guest starts in its workspace, or in /",
        )
