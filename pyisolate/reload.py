"""Hot reload of one sandbox's policy: the kernel's tables first, the guest's broker after.

What the kernel can swap from outside (listener tables, BPF maps, cgroup limits) changes at once. Landlock and the root
view belong to the cell for its life: another Landlock layer can only take away, and only the cell's own threads can
put it on. So without BPF-LSM a reload that loosens file rules is refused, and one that tightens them is taken only
from a cell with a single thread, whose own new layer is then in force before the next request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
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


def reload(supervisor: Supervisor, sandboxes: Iterable[Sandbox], policy: Policy) -> int:
    """Put `policy` in force in each sandbox; return how many. Raises EnforcementError where this kernel cannot.

    The kernel's tables of all are swapped before the first cell is waited for. A refusal concerns one sandbox, whose
    policy is then unchanged; it is raised when the others are done.
    """
    followers: list[_Follower] = []
    failure: Exception | None = None
    for sandbox in sandboxes:
        try:
            followers.append(_begin(supervisor, sandbox, policy))
        except Exception as error:
            failure = failure or error
            supervisor.recorder.metrics.reloads.add(("refused",))
    for follower in followers:
        try:
            follower.wait()
        except Exception as error:
            failure = failure or error
            supervisor.recorder.metrics.reloads.add(("refused",))
        else:
            supervisor.recorder.metrics.reloads.add(("done",))
    if failure is not None:
        raise failure
    return len(followers)


def _begin(supervisor: Supervisor, sandbox: Sandbox, policy: Policy) -> _Follower:
    with supervisor.tables.hold(policy) as prepared, sandbox.reload_lock:
        generation = sandbox._compiled.generation + 1
        compiled = msgspec.structs.replace(prepared.compiled, generation=generation)
        tightens_files = False
        if not supervisor.plan.swaps_files(sandbox.id):
            tightens_files = _check_files(sandbox, compiled)
        if sandbox.closed:
            sandbox._check_open()
        follower = _Follower(sandbox)
        try:
            if tightens_files:
                # The cell puts the new layer on itself, between two requests: this waits for the one that runs.
                follower.own(blocking=True)
                sandbox._check_open()
                _check_single_threaded(sandbox)
            else:
                follower.own(blocking=False)
            _swap(supervisor, sandbox, policy, prepared, compiled)
            follower.send(compiled, prepared if tightens_files else None)
        except BaseException:
            follower.release()
            raise
        return follower


def _swap(
    supervisor: Supervisor, sandbox: Sandbox, policy: Policy, prepared: Prepared, compiled: CompiledPolicy
) -> None:
    """Change what the kernel reads, whatever the guest is doing."""
    supervisor.plan.rebind(sandbox.id, prepared)
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


class _Follower:
    """One cell whose broker is to follow. An idle cell confirms; a busy one looks for the table before it refuses."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox, self._channel = sandbox, sandbox._channel
        self._owned = False
        self._number = 0

    def own(self, *, blocking: bool) -> None:
        """Keep other threads off the channel until `release`, if none runs a request there."""
        self._owned = self._channel.lock.acquire(blocking=blocking)
        if self._owned:
            self._sandbox._supervisor.reactor.disarm(self._channel)

    def release(self) -> None:
        """Let the channel be served again."""
        if self._owned:
            self._owned = False
            self._channel.lock.release()
            self._sandbox._supervisor.reactor.arm(self._channel)

    def send(self, compiled: CompiledPolicy, tightened: Prepared | None) -> None:
        """Send the broker its new table, with a new Landlock layer where files tighten."""
        descriptors = {}
        if tightened is not None and tightened.ruleset is not None:
            descriptors["landlock"] = tightened.ruleset.fd
        try:
            self._number = self._channel.conversation.start_reload()
            frame = wire.Reload(id=self._number, policy=compiled, descriptors=tuple(descriptors))
            self._channel.send(frame, list(descriptors.values()))
        except (Backlog, wire.WireError) as error:
            raise SandboxError(f"reload policy of {self._sandbox.name!r}: {error}") from None

    def wait(self) -> None:
        """Return once an idle cell follows. One that does not is killed: its broker would judge by the old policy."""
        if not self._owned:
            return
        channel, deadline = self._channel, time.monotonic() + RELOAD_TIMEOUT_S
        try:
            while channel.ended is None and not self._followed() and time.monotonic() < deadline:
                channel.pump(max(0.0, deadline - time.monotonic()))
        finally:
            self.release()
        answer = channel.reloaded
        if not self._followed() or (answer is not None and answer.failed):
            why = answer.failed if answer is not None and answer.failed else "no answer"
            name = self._sandbox.name
            self._sandbox._end_with(SandboxDied(f"sandbox {name!r} did not take its new policy ({why}) and was killed"))
            raise SandboxDied(f"reload policy of {name!r}: the cell did not follow ({why}) and was killed")

    def _followed(self) -> bool:
        return self._channel.reloaded is not None and self._channel.reloaded.id >= self._number


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
