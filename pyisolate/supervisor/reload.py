"""Hot reload of one sandbox's policy: the kernel's tables first, the guest's broker after.

What the kernel can swap from outside (listener tables, BPF maps, cgroup limits) changes at once. Landlock and the root
view belong to the cell for its life: another Landlock layer can only take away, and only the cell's own threads can
put it on. So without BPF-LSM a reload that loosens file rules is refused. One that tightens them is taken only where
the kernel proves that the cell put the new layer on, once in its life, and the guest is one thread without children.
An idle cell is woken for that only: else its broker's table comes with the next request (`cell/follow.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from ..cell import wire
from ..cell.outbox import Backlog
from ..decision import Mode
from ..errors import EnforcementError, SandboxDied, SandboxError
from ..kernel.written import sums
from ..policy import workspace
from ..policy.compile import with_gates
from ..policy.compiled import CompiledPolicy, FsRule
from ..policy.secrets import Injection
from ..policy.web import by_name
from ..sandbox.cell_session import CellSession
from .secret_values import injections

if TYPE_CHECKING:
    from ..cell.reactor import Reactor
    from ..kernel.plan import KernelPlan
    from ..kernel.prepared import Prepared
    from ..policy import Policy
    from ..sandbox.session import Session
    from ..telemetry.metrics import Metrics
    from .policy_cache import PreparedPolicies

#: A reload waits this long for the cell's broker to follow (seconds); the kernel's tables have changed by then.
RELOAD_TIMEOUT_S = 5.0


class Reloader(msgspec.Struct, frozen=True):
    """Puts other policies in force in the sandboxes of one supervisor."""

    plan: KernelPlan
    tables: PreparedPolicies
    reactor: Reactor
    metrics: Metrics
    #: takes a sandbox's id, its new tables and secrets
    change_egress: Callable[[str, CompiledPolicy, tuple[Injection, ...]], None]

    def reload(self, sessions: Iterable[Session], policy: Policy) -> int:
        """Put `policy` in force in each sandbox; return how many. Raises EnforcementError where this kernel cannot.

        The kernel's tables of all are swapped before the first cell is waited for. A refusal concerns one sandbox,
        whose policy is then unchanged; it is raised when the others are done. Raises SandboxDied where it failed after
        the first table was swapped: the sandbox, between two policies, is killed.
        """
        followers: list[_Follower] = []
        failure: Exception | None = None
        with contextlib.ExitStack() as held:
            # Once for all: whether what it grants is what it was takes longer to find out than all else for one cell.
            prepared: Prepared | None = None
            for session in sessions:
                try:
                    cell = _cell_of(session, policy)
                    if prepared is None:
                        found = held.enter_context(self.tables.hold(policy))
                        _check_size(session.name, found.compiled)
                        prepared = found
                    followers.append(self._begin(cell, policy, prepared))
                except Exception as error:
                    failure = failure or error
                    self.metrics.reloads.add(("refused",))
        for follower in followers:
            try:
                follower.wait()
            except Exception as error:
                failure = failure or error
                self.metrics.reloads.add(("refused",))
            else:
                self.metrics.reloads.add(("done",))
        if failure is not None:
            raise failure
        return len(followers)

    def _check_fork(self, session: CellSession, new: CompiledPolicy) -> None:
        """Refuse to take fork from a cell whose filter lets it through, unless programs refuse it (BPF-LSM)."""
        if session.channel.forks and not new.allow_fork and not self.plan.bpf.decides:
            raise EnforcementError(
                f"reload policy of {session.name!r}: process.fork would be taken away, and its filter, which "
                "cannot change, lets it through",
                missing="BPF-LSM",
                hint="close it and spawn another",
            )

    def _begin(self, session: CellSession, policy: Policy, prepared: Prepared) -> _Follower:
        with session.reload_lock:
            compiled = msgspec.structs.replace(prepared.compiled, generation=session.compiled.generation + 1)
            secrets = injections(policy, compiled)
            tightens_files = False
            self._check_fork(session, compiled)
            _check_led(session, compiled)
            _check_room(session, compiled, programs_decide=self.plan.bpf.decides)
            if not self.plan.swaps_files:
                tightens_files = _check_files(session, compiled)
            # one that stands still between requests goes on, or stops, by its new limits: it is held for that
            rests = "freeze" in (session.limits.between_requests, compiled.limits.between_requests)
            if session.closed:
                session.check_open()
            follower, swapping = _Follower(session, self.reactor), False
            try:
                if tightens_files:
                    # The cell puts the new layer on itself, between two requests: this waits for the one that runs.
                    if not follower.own(blocking=not session.may_wait_for_host()):
                        raise _waited_for(session)
                    session.check_open()
                    follower.layers = _provable_layers(session)
                swapping = True
                # What the kernel reads changes now, whatever the guest is doing.
                session.kernel.rebind(prepared)
                session.control.apply(compiled.limits)
                self.change_egress(session.id, compiled, secrets)
                session.adopt_policy(policy, prepared, compiled)
                if tightens_files:
                    follower.send(compiled, prepared)
                else:
                    follower.announce(compiled, rests=rests)
            except BaseException as error:
                follower.release()
                if swapping:
                    _end_between(session, error)
                raise
            return follower


def _waited_for(session: CellSession) -> EnforcementError:
    return EnforcementError(
        f"reload policy of {session.name!r}: file rules would tighten, which happens between two requests, and the one "
        "that runs waits for the host (on_ask, or a function that it called)",
        hint="answer first, and reload after its request has ended",
    )


def _end_between(session: CellSession, error: BaseException) -> None:
    """End a sandbox that is between two policies. Raises SandboxDied for errors, or why its cell had died by itself."""
    if session.channel.exited.is_set():
        session.channel.read_rest()
        session.check_open()
    name, why = session.name, f"{type(error).__name__}: {error}"
    session.end_with(SandboxDied(f"sandbox {name!r} took its new policy in part ({why}) and was killed"))
    if isinstance(error, Exception):
        raise SandboxDied(f"reload policy of {name!r}: it failed half-way ({why}), the sandbox was killed") from error


def _cell_of(session: Session, policy: Policy) -> CellSession:
    """Return the session. Raises EnforcementError where it cannot have another policy, or not this one."""
    if not isinstance(session, CellSession):
        raise EnforcementError(
            f"reload policy of {session.name!r}: a sandbox thread keeps its kernel policy for life",
            hint="close it and spawn another",
        )
    if policy.environment != session.policy.environment:
        raise EnforcementError(
            f"reload policy of {session.name!r}: its guest has the packages of "
            f"{session.policy.environment or 'the interpreter'}, and another environment would not replace them",
            missing="environment",
            hint="environment.grant(policy) is the policy in the same environment; for another, spawn another",
        )
    return session


def _check_led(session: CellSession, new: CompiledPolicy) -> None:
    """Refuse what only the egress proxy grants to a guest that knows of none: the variables came with its start."""
    if by_name(new) and not session.waiting.led_to_proxy:
        raise EnforcementError(
            f"reload policy of {session.name!r}: it grants or asks by name, and the guest was started without the "
            "variables that lead to the egress proxy (HTTP_PROXY, HTTPS_PROXY)",
            missing="egress proxy",
            hint="spawn another; a policy that has an http rule or a *.name from the start may be changed",
        )


class _Follower:
    """One cell whose broker is to follow: with its next request, or where it would refuse something before.

    Where it puts on a Landlock layer, and where nothing can be announced to it, an idle cell is woken and waited for.
    """

    def __init__(self, session: CellSession, reactor: Reactor) -> None:
        self._session, self._channel = session, session.channel
        self._guard = reactor.borrow(session.channel)
        self._owned = False
        self._number = 0
        #: rulesets that confined the guest before, where one more must do so after
        self.layers: int | None = None

    def own(self, *, blocking: bool) -> bool:
        """Keep other threads off the channel until `release`; False where one runs a request and this may not wait."""
        self._owned = self._guard.acquire(blocking=blocking)
        if self._owned:
            self._session.control.set_frozen(False)
        return self._owned

    def release(self) -> None:
        """Let the channel be served again."""
        if self._owned:
            self._session.control.set_frozen(True)
        self._owned = False
        self._guard.release()

    def announce(self, compiled: CompiledPolicy, *, rests: bool) -> None:
        """Have the new table come with the next request, or at once where one runs or the guest `rests` between two."""
        serial, busy = self._session.kernel.announce(), self._session.running
        if serial and not busy and not rests:
            frame = wire.Reload(id=self._start(), policy=self._broker_policy(compiled), serial=serial)
            self._channel.keep(frame)
            if self._session.running:  # its request may have been sent before
                self._channel.send_kept()
            return
        self.own(blocking=False)
        self.send(compiled, None, serial)

    def send(self, compiled: CompiledPolicy, tightened: Prepared | None, serial: int = 0) -> None:
        """Send the broker its new table, with a new Landlock layer where files tighten."""
        descriptors = {}
        if tightened is not None and tightened.ruleset is not None:
            descriptors["landlock"] = tightened.ruleset.fd
        self._number = self._start()
        if self._owned:
            self._channel.awaited_reload = self._number
        policy = self._broker_policy(compiled)
        frame = wire.Reload(id=self._number, policy=policy, descriptors=tuple(descriptors), serial=serial)
        try:
            self._channel.send(frame, list(descriptors.values()))
        except (Backlog, wire.WireError) as error:
            raise SandboxError(f"reload policy of {self._session.name!r}: {error}") from None

    def _broker_policy(self, compiled: CompiledPolicy) -> CompiledPolicy:
        """Return what the broker decides by: in a directory of the host's as workspace others may have sockets."""
        own = self._session.workspace
        shared = own is not None and own.hosts
        return msgspec.structs.replace(compiled, shared_workspace=True) if shared else compiled

    def _start(self) -> int:
        try:
            return self._channel.conversation.start_reload()
        except wire.WireError as error:
            raise SandboxError(f"reload policy of {self._session.name!r}: {error}") from None

    def wait(self) -> None:
        """Return once a cell follows that is waited for. One that does not is killed: it would judge by the old."""
        if not self._owned:  # it is not waited for
            return
        channel, deadline = self._channel, time.monotonic() + RELOAD_TIMEOUT_S
        try:
            while channel.ended is None and not self._followed() and time.monotonic() < deadline:
                channel.pump(max(0.0, deadline - time.monotonic()))
        finally:
            self.release()
        answer = channel.reloaded
        why = answer.failed if answer is not None and answer.failed else "" if self._followed() else "no answer"
        if why := why or self._unproven():
            name = self._session.name
            self._session.end_with(SandboxDied(f"sandbox {name!r} did not take its new policy ({why}) and was killed"))
            raise SandboxDied(f"reload policy of {name!r}: the cell did not follow ({why}) and was killed")

    def _unproven(self) -> str:
        """Say what the kernel says against a cell that claims to have tightened its file rules."""
        if self.layers is None:
            return ""
        if self._session.kernel.landlock_layers(self._session.pid) != self.layers + 1:
            return "it did not put the new file rules on"
        return _not_alone(self._session) or ""

    def _followed(self) -> bool:
        return self._channel.reloaded is not None and self._channel.reloaded.id == self._number


def _check_size(name: str, new: CompiledPolicy) -> None:
    """Refuse a policy that no frame holds: the next request would bring its table, when it is too late."""
    try:
        wire.encode(wire.Reload(id=(1 << 63) - 1, policy=new))
    except wire.WireError as error:
        raise SandboxError(
            f"reload policy of {name!r}: {error}", hint="name directories in the place of their files"
        ) from None


def _check_files(session: CellSession, new: CompiledPolicy) -> bool:
    """Return whether file rules change at all; refuse what Landlock cannot do to a running cell."""
    old, new = with_gates(session.compiled), with_gates(new)
    if _rules(old) == _rules(new) and old.mode_of("fs") is new.mode_of("fs"):
        return False
    wider = sorted({rule.text or rule.path for rule in _widening(old, new)})
    if wider or (old.mode_of("fs") is Mode.ENFORCE and new.mode_of("fs") is not Mode.ENFORCE):
        raise EnforcementError(
            f"reload policy of {session.name!r}: file rules would loosen ({', '.join(wider[:3]) or 'monitor mode'}), "
            "and Landlock can only tighten",
            rule=wider[0] if wider else None,
            missing="BPF-LSM",
            hint="close it and spawn another, or use a kernel with BPF-LSM (boot with lsm=...,bpf)",
        )
    if [rule for rule in new.fs if rule.deny and rule not in old.fs]:
        raise EnforcementError(
            f"reload policy of {session.name!r}: a new deny rule below a grant, which Landlock cannot express",
            missing="BPF-LSM",
            hint="remove the grant instead, or close it and spawn another",
        )
    return True


def _check_room(session: CellSession, new: CompiledPolicy, *, programs_decide: bool) -> None:
    """Refuse another bound of what is written: a workspace keeps the one it was made with, a directory in it has none.

    Refuse to let run what its mount does not.
    """
    own, old = session.workspace, session.compiled
    strict = session.report is not None and session.report.enforcement == "strict"
    if own is not None and own.hosts and strict and (named := sums(new.limits)):
        raise EnforcementError(
            f"reload policy of {session.name!r}: {'; '.join(named)}: its workspace is a directory of the host's, and "
            "nothing counts what is written there",
            missing=named[0],
            hint="leave these out, or close it and spawn another with copy_on_write= or a workspace of memory",
        )
    mounted_to_run = workspace.is_mounted_to_run(old, programs_decide=programs_decide)
    if own is not None and workspace.may_run(new) and not mounted_to_run:
        raise EnforcementError(
            f"reload policy of {session.name!r}: its workspace was mounted so that nothing in it runs, and the policy "
            "would grant that",
            missing="workspace",
            hint="close it and spawn another",
        )
    if own is None or new.workspace_room in (None, old.workspace_room):
        return
    if own.hosts and new.workspace_bytes == old.workspace_bytes:
        return  # best effort: its report says that limits.disk and limits.files hold nowhere
    raise EnforcementError(
        f"reload policy of {session.name!r}: its workspace keeps its size, and workspace, limits.disk or limits.files "
        "would be others",
        missing="workspace",
        hint="leave these as they are, or close it and spawn another",
    )


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


def _provable_layers(session: CellSession) -> int:
    """Return how many Landlock rulesets confine the guest, where the kernel can prove that it put on one more.

    Raises EnforcementError elsewhere: the guest's own word is no proof, a process that it made keeps the old rights,
    and a guest may hold on to the ruleset of an earlier reload and put that on again.
    """
    why = _not_alone(session)
    layers, own = session.kernel.landlock_layers(session.pid), session.kernel.landlock_layers(os.getpid())
    if why is None and (layers is None or own is None):
        why = "the kernel does not say whether its cell put the new rules on (Linux 6.15, CAP_BPF)"
    if why is None and layers != (own or 0) + 1:
        why = "its file rules were tightened before, and its cell may hold the ruleset of then"
    if why is not None or layers is None:
        raise EnforcementError(
            f"reload policy of {session.name!r}: file rules would tighten, which cannot be proven: {why}",
            missing="BPF-LSM",
            hint="close it and spawn another",
        )
    return layers


def _not_alone(session: CellSession) -> str | None:
    """Say which other tasks the guest has; Landlock tightens one thread at a time."""
    try:
        if (threads := len(os.listdir(f"/proc/{session.pid}/task"))) != 1:
            return f"it has {threads} threads, and Landlock tightens one at a time"
        below = {*_children(session.pid), *_children(session.init_pid)} - {session.pid}
    except OSError as error:
        return f"its processes cannot be counted ({error.strerror})"
    return f"it has {len(below)} other processes, which would keep the old rights" if below else None


def _children(pid: int) -> list[int]:
    """Return a process's children (proc(5), CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found
