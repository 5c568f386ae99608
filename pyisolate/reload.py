"""Hot reload of one sandbox's policy: the kernel's tables first, the guest's broker after.

What the kernel can swap from outside (listener tables, BPF maps, cgroup limits) changes at once. Landlock and the root
view belong to the cell for its life: another Landlock layer can only take away, and only the cell's own threads can
put it on. So without BPF-LSM a reload that loosens file rules is refused, and one that tightens them is taken only
from a cell with a single thread, whose own new layer is then in force before the next request.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from .cell import wire
from .cell.channel import Backlog
from .decision import Mode
from .errors import EnforcementError, SandboxDied, SandboxError
from .policy.compiled import CompiledPolicy, FsRule

if TYPE_CHECKING:
    from .kernel.plan import Prepared
    from .policy import Policy
    from .sandbox import Sandbox
    from .supervisor import Supervisor

#: A reload waits this long for the cell's broker to follow (seconds); the kernel's tables have changed by then.
RELOAD_TIMEOUT_S = 5.0


def reload(supervisor: Supervisor, sandbox: Sandbox, policy: Policy) -> None:
    """Put `policy` in force in `sandbox`. Raises EnforcementError where this kernel cannot; then nothing changed."""
    try:
        _reload(supervisor, sandbox, policy)
    except BaseException:
        supervisor.recorder.metrics.reloads.add(("refused",))
        raise
    supervisor.recorder.metrics.reloads.add(("done",))


def _reload(supervisor: Supervisor, sandbox: Sandbox, policy: Policy) -> None:
    prepared = supervisor.prepare(policy)
    with sandbox.reload_lock:
        generation = sandbox._compiled.generation + 1
        compiled = msgspec.structs.replace(prepared.compiled, generation=generation)
        tightens_files = False
        if not supervisor.plan.swaps_files(sandbox.id):
            tightens_files = _check_files(sandbox, compiled)
        if sandbox.closed:
            sandbox._check_open()
        if tightens_files:
            # The cell puts the new layer on itself, between two requests: this waits for the one that runs.
            with sandbox._own_channel():
                sandbox._check_open()
                _check_single_threaded(sandbox)
                _swap(supervisor, sandbox, policy, prepared, compiled)
                _tell_cell(sandbox, compiled, prepared)
            return
        _swap(supervisor, sandbox, policy, prepared, compiled)
        _tell_cell(sandbox, compiled, None)


def _swap(
    supervisor: Supervisor, sandbox: Sandbox, policy: Policy, prepared: Prepared, compiled: CompiledPolicy
) -> None:
    """Change what the kernel reads, whatever the guest is doing."""
    supervisor.plan.rebind(sandbox.id, prepared, compiled)
    if sandbox._lease is not None:
        sandbox._lease.apply(compiled.limits)
    sandbox._policy, sandbox._compiled, sandbox.prepared = policy, compiled, prepared
    sandbox._context = msgspec.structs.replace(
        sandbox._context,
        policy=policy.name,
        policy_version=policy.version,
        policy_generation=compiled.generation,
        mode=compiled.mode,
    )
    sandbox.telemetry.context = sandbox._context


def _tell_cell(sandbox: Sandbox, compiled: CompiledPolicy, tightened: Prepared | None) -> None:
    """Send the broker its new table. An idle cell confirms; a busy one looks for it before it next refuses."""
    descriptors = {}
    if tightened is not None and tightened.ruleset is not None:
        descriptors["landlock"] = tightened.ruleset.fd
    channel = sandbox._channel
    owned = channel.lock.acquire(blocking=False)
    try:
        number = channel.conversation.start_reload()
        frame = wire.Reload(id=number, policy=compiled, descriptors=tuple(descriptors))
        channel.send(frame, list(descriptors.values()))
        if not owned:
            return
        sandbox._supervisor.reactor.disarm(channel)
        deadline = time.monotonic() + RELOAD_TIMEOUT_S
        while channel.ended is None and time.monotonic() < deadline:
            if channel.reloaded is not None and channel.reloaded.id >= number:
                break
            channel.pump(max(0.0, deadline - time.monotonic()))
    except (Backlog, wire.WireError) as error:
        raise SandboxError(f"reload policy of {sandbox.name!r}: {error}") from None
    finally:
        if owned:
            sandbox._supervisor.reactor.arm(channel)
            channel.lock.release()
    answer = channel.reloaded
    if answer is None or answer.id < number or answer.failed:
        why = answer.failed if answer is not None and answer.failed else "no answer"
        sandbox.end(f"it did not take its new policy: {why}")
        raise SandboxDied(f"reload policy of {sandbox.name!r}: the cell did not follow ({why}) and was killed")


def _check_files(sandbox: Sandbox, new: CompiledPolicy) -> bool:
    """Return whether file rules change at all; refuse what Landlock cannot do to a running cell."""
    old = sandbox._compiled
    if _rules(old) == _rules(new) and old.mode_of("fs") is new.mode_of("fs"):
        return False
    wider = sorted({rule.text or rule.path for rule in _widening(old, new)})
    if wider or (old.mode_of("fs") is Mode.ENFORCE and new.mode_of("fs") is not Mode.ENFORCE):
        raise EnforcementError(
            f"reload policy of {sandbox.name!r}: file rules would loosen ({', '.join(wider[:3]) or 'monitor mode'}), "
            "and Landlock can only tighten",
            rule=wider[0] if wider else None,
            missing="BPF-LSM",
            hint="close it and spawn another, or use a kernel with BPF-LSM (boot with lsm=...,bpf)",
        )
    if [rule for rule in new.fs if rule.deny and rule not in old.fs]:
        raise EnforcementError(
            f"reload policy of {sandbox.name!r}: a new deny rule below a grant, which Landlock cannot express",
            missing="BPF-LSM",
            hint="remove the grant instead, or close it and spawn another",
        )
    return True


def _rules(compiled: CompiledPolicy) -> set[tuple[str, int, int]]:
    return {(rule.path, rule.allow, rule.deny) for rule in compiled.fs}


def _widening(old: CompiledPolicy, new: CompiledPolicy) -> list[FsRule]:
    """Rules of `new` that allow, at their path, a right that `old` does not."""
    table = {rule.path: rule for rule in old.fs}
    return [rule for rule in new.fs if rule.allow & ~_allowed_at(table, rule.path)]


def _allowed_at(table: dict[str, FsRule], path: str) -> int:
    """Rights that a table allows at a path: the longest rule that speaks of a right decides it."""
    allowed = decided = 0
    while True:
        rule = table.get(path)
        if rule is not None:
            allowed |= rule.allow & ~rule.deny & ~decided
            decided |= rule.allow | rule.deny
        if path == "/":
            return allowed
        path = os.path.dirname(path)


def _check_single_threaded(sandbox: Sandbox) -> None:
    threads = len(os.listdir(f"/proc/{sandbox.pid}/task"))
    if threads != 1:
        raise EnforcementError(
            f"reload policy of {sandbox.name!r}: it has {threads} threads, and Landlock tightens one at a time",
            missing="BPF-LSM",
            hint="close it and spawn another",
        )
