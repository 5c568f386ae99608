"""Hand-out: a warm cell becomes a sandbox. The cell confines itself for the policy, says so, and is bound to it.

No guest code runs before all of it has succeeded. A spare (see `spares`) went through the same before anybody asked.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from .cell import wire
from .cell.channel import Backlog
from .errors import EnforcementError, SandboxDied
from .limits import rlimit
from .limits.rlimit import COMMON_RLIMITS
from .options import GUEST_ENVIRONMENT
from .sandbox import Sandbox
from .telemetry.event import SandboxContext

if TYPE_CHECKING:
    from .cell.channel import Channel
    from .kernel.plan import Prepared
    from .policy import Policy
    from .policy.compiled import Limits
    from .supervisor import Supervisor

#: A cell answers `Init` within microseconds; one that has not by then is broken (seconds).
HANDOUT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class CellOrder:
    """What a sandbox in a cell is to be: its policy, the kernel's tables of it, and how strict."""

    policy: Policy
    prepared: Prepared
    enforcement: str

    @property
    def key(self) -> tuple[int, str]:
        """Equal for orders that the same spare can serve."""
        return id(self.prepared), self.enforcement


def spawn_cell(
    supervisor: Supervisor, context: SandboxContext, order: CellOrder, env: dict[str, str], cwd: str
) -> Sandbox:
    """Hand out a warm cell; forks one where none is ready."""
    native = supervisor.plan.is_native(order.prepared)
    pool = supervisor._native_pool if native else supervisor._pool
    assert pool is not None
    channel = pool.take()
    try:
        return hand_out(supervisor, channel, context, order, env, cwd, native=native)
    finally:
        pool.refill()


def spare_cell(supervisor: Supervisor, channel: Channel, order: CellOrder, *, native: bool) -> Sandbox:
    """Hand out a warm cell to nobody yet: `adopt` gives it its name."""
    compiled = order.prepared.compiled
    context = SandboxContext(
        sandbox="spare",
        sandbox_id=secrets.token_hex(8),
        policy=order.policy.name,
        policy_version=order.policy.version,
        policy_generation=compiled.generation,
        isolation="process",
        mode=compiled.mode,
    )
    return hand_out(supervisor, channel, context, order, {}, "/", native=native, spare=True)


def adopt(sandbox: Sandbox, context: SandboxContext, order: CellOrder, env: dict[str, str]) -> bool:
    """Give a spare its name, environment and owner; False when its cell has died meanwhile."""
    supervisor = sandbox._supervisor
    sandbox.become(msgspec.structs.replace(context, sandbox_id=sandbox.id), order.policy)
    frame = wire.Begin(sandbox=context.sandbox, environment={**GUEST_ENVIRONMENT, **env})
    with supervisor._lock:
        supervisor._sandboxes[sandbox.id] = sandbox
    try:
        sandbox._channel.send(frame)
    except (Backlog, wire.WireError):
        sandbox.close()
        return False
    if sandbox._channel.ended is not None:
        sandbox.close()
        return False
    supervisor.watch.watch(sandbox)
    return True


def hand_out(
    supervisor: Supervisor,
    channel: Channel,
    context: SandboxContext,
    order: CellOrder,
    env: dict[str, str],
    cwd: str,
    *,
    native: bool = False,
    spare: bool = False,
) -> Sandbox:
    """Confine the cell behind `channel` and bind it to its policy. Raises SandboxDied, EnforcementError."""
    lease = supervisor._leases.get(channel.pid)
    sandbox = Sandbox(supervisor, order.policy, order.prepared, context, channel, lease, spare=spare)
    try:
        if lease is not None:
            lease.apply(order.prepared.compiled.limits)
        if not spare:
            with supervisor._lock:
                supervisor._sandboxes[sandbox.id] = sandbox
        answer = _confine(supervisor, sandbox, order.prepared, env, cwd, native=native)
        _report(supervisor, sandbox, order, answer, native=native)
        try:  # the listener decides by the policy from here on; only now may guest code run
            supervisor.plan.bind(channel.pid, sandbox.id, order.prepared)
        except KeyError:
            raise sandbox._death() from None  # it was reaped since it answered
        if not spare:
            sandbox._state = "idle"
            supervisor.watch.watch(sandbox)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _confine(
    supervisor: Supervisor, sandbox: Sandbox, prepared: Prepared, env: dict[str, str], cwd: str, *, native: bool
) -> wire.Ready:
    """Send the cell what it needs and wait until it says that all of it is applied."""
    channel = sandbox._channel
    named = prepared.descriptors()
    slots = supervisor.plan.open_sandbox(sandbox.id, prepared, native=native)
    if slots is not None:
        named["slots"] = slots[0]
    init = wire.Init(
        sandbox=sandbox.name,
        policy=prepared.compiled,
        shadow=prepared.shadow,
        descriptors=tuple(named),
        environment={**GUEST_ENVIRONMENT, **env},
        working_directory=cwd,
        rlimits=_rlimits(supervisor, prepared.compiled.limits, sandbox._lease is not None),
        slot_page=slots[1] if slots is not None else 0,
    )
    with sandbox._own_channel():
        channel.owner = sandbox
        try:
            channel.conversation.start_handout()
            channel.send(init, list(named.values()))
            answer = channel.wait_answer(time.monotonic() + HANDOUT_TIMEOUT_S)
        except (Backlog, wire.WireError) as error:
            raise SandboxDied(f"spawn {sandbox.name!r}: {error}") from None
    if isinstance(answer, wire.Ready):
        return answer
    channel.exited.wait(0.2 if channel.ended is not None else 0)
    if channel.ended is not None:
        raise sandbox._death()
    raise SandboxDied(f"spawn {sandbox.name!r}: the cell did not confine itself within {HANDOUT_TIMEOUT_S} s")


def _report(supervisor: Supervisor, sandbox: Sandbox, order: CellOrder, answer: wire.Ready, *, native: bool) -> None:
    """Let BPF programs decide where they do, and write down who enforces what. Strict: nothing may be missing."""
    channel, plan = sandbox._channel, supervisor.plan
    steps = (*channel.steps, *answer.steps)
    if plan.attach_task(channel.pid, sandbox.id, order.prepared):
        steps = (*steps, "bpf-lsm")
    if native:
        plan.attach_network(sandbox.id, order.prepared, sandbox._lease)
        steps = (*steps, "cgroup-bpf")
    failed = (*channel.failed_steps, *answer.failed)
    sandbox._report = plan.report(
        order.prepared,
        "process",
        order.enforcement,
        steps,
        failed,
        lease=sandbox._lease,
        cgroup_reason=supervisor._cgroup_reason,
    )
    if sandbox._report.missing:
        plan.require_listener()  # else its calls fail in ways that name anything but the listener
    if order.enforcement == "strict" and sandbox._report.missing:
        raise EnforcementError(
            f"spawn {sandbox.name!r}: {'; '.join(sandbox._report.missing)}",
            missing=sandbox._report.missing[0],
            hint="run `pyisolate doctor`, or pass enforcement='best_effort' to accept less",
        )


def _rlimits(supervisor: Supervisor, limits: Limits, has_cgroup: bool) -> tuple[tuple[int, int, int], ...]:
    """Return the policy's own; those that are the same for all were set when the cell was forked."""
    table = rlimit.compute(limits, cgroup_memory=has_cgroup, own_user_namespace=supervisor.plan.usable("namespaces"))
    already = {which for which, _soft, _hard in COMMON_RLIMITS}
    return tuple((which, soft, hard) for which, (soft, hard) in table.items() if which not in already)
