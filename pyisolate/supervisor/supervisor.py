"""The supervisor's public face: spawn sandboxes, list, reload and kill them, and close them all."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, Unpack, overload

import msgspec

from ..actor import current_actor
from ..capability import Capability
from ..choices import Enforcement, Isolation, Network, Telemetry
from ..decision import DenialCode, Verdict
from ..errors import PolicyError
from ..kernel.prepared import Prepared
from ..policy import Policy
from ..records import Actor, BrokerRecord, Reporter, SandboxContext
from ..sandbox.ask import Asker, make_asker
from ..sandbox.host_function import FunctionsLike, Offer, make_offer
from ..sandbox.process import Sandbox
from ..sandbox.question import OnAsk
from ..sandbox.request import check_names
from ..sandbox.result import OutputCallback, check_callbacks
from ..telemetry import tracing
from ..telemetry.alerts import AlertRule
from ..telemetry.event import DenialEvent
from ..telemetry.merge import merge
from ..telemetry.recorder import AlertObserver, Recorder
from ..telemetry.sinks.protocol import EventSink
from .assign import CellOrder
from .cell_python import find_python
from .cell_users import cell_traits
from .diagnostics import Diagnostics, diagnose
from .given_directory import GivenDirectory
from .host_errors import host_error_context
from .options import (
    PolicyLike,
    SpawnOptions,
    as_policy,
    asked_by_default,
    check_environment,
    check_hosts,
    check_pool_size,
    check_spawn,
    check_workspace,
    choose_actor,
    choose_policy,
    make_recorder,
    put_first,
    read_authorities,
)
from .runtime import Runtime
from .standby_threads import ThreadOrder
from .start import StartOptions

if TYPE_CHECKING:
    from ..environments import Environment
    from ..sandbox.thread import SandboxThread


class _Order(msgspec.Struct, frozen=True):
    """What `spawn` is to make, once its policy is prepared."""

    context: SandboxContext
    policy: Policy
    prepared: Prepared
    enforcement: Enforcement
    on_stdout: OutputCallback | None
    on_stderr: OutputCallback | None
    offer: Offer | None
    asker: Asker | None

    def equip(self, runtime: Runtime, sandbox: Sandbox | SandboxThread) -> None:
        """Give a new sandbox who reads its output and answers, where `spawn` was given any."""
        if self.on_stdout or self.on_stderr or self.offer is not None or self.asker is not None:
            runtime.equip(sandbox.id, self.on_stdout, self.on_stderr, self.offer, self.asker)


class Supervisor:
    """Owns a zygote, a pool of warm cells, the enforcers and the telemetry of its sandboxes. A context manager.

    `pool_size`: warm cells to keep. `preload`: modules that the zygote imports for all. `cell_uid`, `cell_gid`: whom
    cells run as when the supervisor is root (default 65534); files that a guest shall read or write must be open to
    that user. `cell_uids`: users of whom each living cell is one outside (root; default: all are `cell_uid`), so that
    sandboxes share no count that the kernel keeps by user; they cannot reach what is `cell_uid`'s own, and what one
    makes belongs to its user of the range. `kernel_events_per_s`: records a second of one sandbox that the BPF programs
    send (all are counted).
    `telemetry="full"` shows the notification listener every file call (about 8 us each), refused or not; by default it
    sees what was refused, raw system calls, and all calls of executed programs.
    `network`: `auto` lets cgroup-BPF programs decide connections where root may load them, `listener` asks for none.
    `audit` (a path, or an AuditLog), `sinks` (default: the process's) and `alerts` (rules, or an AlertEngine) say where
    events go besides store and counters, and are closed with the supervisor; `recorder` replaces all three.
    `egress_hosts`: addresses of names that the egress proxy is not to look up, for a network without a resolver or a
    test; rules decide about these addresses like about any other. `egress_ca`: a file of certificates (PEM) that it
    trusts where it opens TLS, in place of this machine's.
    `python`: the interpreter that guests run, of another version or of a virtual environment, whose packages are those
    that rules about imports speak of. This version of pyisolate must be installed for it; SandboxError where it is not.
    """

    def __init__(
        self,
        *,
        pool_size: int = 4,
        preload: tuple[str, ...] | list[str] = (),
        cell_uid: int | None = None,
        cell_gid: int | None = None,
        cell_uids: range | None = None,
        telemetry: Telemetry = "default",
        kernel_events_per_s: int = 1000,
        network: Network = "auto",
        audit: str | os.PathLike[str] | EventSink | None = None,
        sinks: Sequence[EventSink] | None = None,
        alerts: Iterable[AlertRule] | AlertObserver | None = None,
        recorder: Recorder | None = None,
        egress_hosts: Mapping[str, Sequence[str]] | None = None,
        egress_ca: str | os.PathLike[str] | None = None,
        python: str | os.PathLike[str] | None = None,
    ) -> None:
        if telemetry not in ("default", "full"):
            raise ValueError(f"telemetry: {telemetry!r}: must be 'default' or 'full'")
        if network not in ("auto", "listener"):
            raise ValueError(f"network: {network!r}: must be 'auto' or 'listener'")
        if recorder is not None and not (audit is None and sinks is None and alerts is None):
            raise ValueError("recorder: it has its own audit log, sinks and alerts: give them to it")
        traits = cell_traits(
            cell_uid,
            cell_gid,
            cell_uids,
            full_telemetry=telemetry == "full",
            events_per_s=kernel_events_per_s,
        )
        own = None if python is None else find_python(os.fspath(python))
        check_pool_size(pool_size)
        warm = check_names("preload", preload)
        options = StartOptions(
            pool_size,
            warm,
            network,
            check_hosts(egress_hosts),
            read_authorities(egress_ca),
            own,
        )
        self._runtime = Runtime(
            traits if own is None else msgspec.structs.replace(traits, interpreter=own.places),
            options,
            recorder if recorder is not None else make_recorder(audit, sinks, alerts),
            owns_recorder=recorder is None,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("pickle a Supervisor: its cells are this process's. Hint: make one in the other process")

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Prove the enforcers, start the zygote, fill the pool. `spawn` does it when needed.

        Raises SandboxError where the host lacks something, and after `close`.
        """
        self._runtime.start()
        return self

    def close(self) -> None:
        """End every sandbox, the zygote and all threads; give back every cgroup, descriptor and mount. Idempotent."""
        self._runtime.close()

    @property
    def closed(self) -> bool:
        """True once `close` was called, and in a forked child of the host."""
        return self._runtime.state == "closed"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sandboxes(self) -> list[Sandbox | SandboxThread]:
        """Every sandbox that is not closed, oldest first."""
        return self._runtime.registry.handles()

    @property
    def recorder(self) -> Recorder:
        """Where events go: store, counters, audit log, sinks and alerts."""
        return self._runtime.recorder

    def diagnostics(self) -> Diagnostics:
        """Return what the supervisor holds now: counts of cells, sandboxes and control groups, and its enforcers."""
        return diagnose(self._runtime)

    # -- spawn ----------------------------------------------------------------------------------------------

    @overload
    def spawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Literal["process"] = "process",
        **options: Unpack[SpawnOptions],
    ) -> Sandbox: ...
    @overload
    def spawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Literal["thread"],
        **options: Unpack[SpawnOptions],
    ) -> SandboxThread: ...
    @overload
    def spawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Isolation,
        **options: Unpack[SpawnOptions],
    ) -> Sandbox | SandboxThread: ...
    def spawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Isolation = "process",
        limits: Mapping[str, Any] | None = None,
        mode: str | None = None,
        enforcement: Enforcement = "strict",
        actor: Mapping[str, str] | Actor | None = None,
        require_actor: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        workspace: str | int | os.PathLike[str] | None = None,
        environment: Environment | str | os.PathLike[str] | None = None,
        files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
        copy_on_write: str | os.PathLike[str] | None = None,
        allowed_imports: list[str] | tuple[str, ...] | None = None,
        shadow: PolicyLike | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        functions: FunctionsLike | Offer | None = None,
        on_ask: OnAsk | Asker | None = None,
        ask_timeout: float = 30.0,
    ) -> Sandbox | SandboxThread:
        """Return a running sandbox for one guest.

        `policy`: a Policy, a preset's name (default `compute`), or the path of a policy file. `limits`: the keys of
        `Policy.with_limits`.
        `mode`: overrides the policy's. `shadow`: a second policy that refuses nothing; what it would refuse is recorded
        (`event.shadow`). `actor`: on whose behalf (default: that of `acting_as`); `require_actor` refuses a spawn
        without one. `enforcement`: `strict` raises EnforcementError when the kernel cannot enforce a rule or hold a
        limit as stated, `best_effort` goes on and says so in `sandbox.enforcement`. `isolation`: `process` (a
        boundary) or `thread` (a guard rail, which takes neither `env` nor `cwd`). `env`: the guest's whole
        environment. `cwd`: its working directory (default: its workspace, `/` without one).
        `workspace`: memory for files of its own, such as `64MiB`, in place of the policy's; with `strict` there is one,
        or EnforcementError. A path (no text) is a directory of the host's in it, which stays and has no bound.
        `files`: what to put there first, by name: bytes or text as they are, a path of the host's as `SandboxFiles.put`
        copies it. `copy_on_write`: a directory of the host's, of which a copy is to be in the workspace;
        `SandboxFiles.diff`, `commit` and `discard` say what becomes of it.
        `allowed_imports`: modules to grant besides. `environment`: packages in the place of the interpreter's own, with
        rules to import all of them; an `Environment`, or its directory.
        `functions`: functions of this process that the guest may call, by the guest's names for them (`HostFunction`
        bounds one). `on_ask`: a function or coroutine function that answers with `Allow` or `Deny`, within
        `ask_timeout` seconds, for what no rule speaks of (`Policy.with_ask`); the guest waits.

        Raises EnforcementError, PolicySyntaxError, PolicyError (no actor), SandboxDied, SandboxError; TypeError and
        ValueError for arguments that no sandbox can have, OSError for a file, of the policy or of `files`, that cannot
        be read, or for a directory that is given as workspace.
        """
        started = time.perf_counter()
        variables, directory = check_spawn(name, isolation, enforcement, env, cwd)
        check_callbacks(on_stdout, on_stderr)
        offer = make_offer(functions) if functions else None
        asker = None if on_ask is None else make_asker(on_ask, ask_timeout)
        with host_error_context(f"spawn {name!r}: read its policy", leave=OSError):
            chosen = choose_policy(policy, limits, mode, allowed_imports, workspace, environment)
        if asker is not None and not chosen.ask:
            chosen = chosen.with_ask(*asked_by_default(chosen))
        started_with = self._runtime.options
        own_python = started_with.python is None
        check_environment(name, chosen, isolation, started_with.preload, own_python=own_python)
        who = choose_actor(actor)
        traced = tracing.span("pyisolate.spawn", lambda: {"pyisolate.sandbox": name, "pyisolate.isolation": isolation})
        with traced as span, self._prepared(name, chosen, isolation, enforcement, shadow) as prepared:
            context = SandboxContext(
                sandbox=name,
                sandbox_id=os.urandom(8).hex(),
                policy=chosen.name,
                policy_version=chosen.version,
                policy_generation=prepared.compiled.generation,
                isolation=isolation,
                mode=prepared.compiled.mode,
                actor=who,
                reasons=prepared.compiled.reasons,
                files=prepared.compiled.fs,
                unresolved=prepared.compiled.unresolved(),
                denied_modules=prepared.compiled.denied_modules(),
            )
            span.set(lambda: tracing.sandbox_attributes(context))
            check_workspace(name, workspace, files, prepared, enforcement, copy_on_write)
            given = None
            if workspace is not None and isinstance(workspace, os.PathLike):
                given = GivenDirectory.find(workspace)
                given.check(prepared.compiled, self._runtime.plan.traits, enforcement)
            if who is None and require_actor:
                event = self._refuse_without_actor(context)
                raise PolicyError(
                    f"spawn {name!r}: no actor was given",
                    denial_event=event,
                    hint="pass actor={'kind': ..., 'id': ...}",
                )
            order = _Order(context, chosen, prepared, enforcement, on_stdout, on_stderr, offer, asker)
            with host_error_context(f"spawn {name!r}"):
                sandbox: Sandbox | SandboxThread
                if isolation == "thread":
                    sandbox = self._spawn_thread(order)
                else:
                    sandbox = self._spawn_cell(order, variables, directory, given, copied=copy_on_write is not None)
            span.set(lambda: {"pyisolate.sandbox_id": sandbox.id, "process.pid": sandbox.pid})
        if (files or copy_on_write is not None) and isinstance(sandbox, Sandbox):
            put_first(sandbox, files, copy_on_write)
        self.recorder.metrics.set_enforcement(sandbox.enforcement)
        self.recorder.metrics.spawned(time.perf_counter() - started)
        return sandbox

    def _prepared(
        self, name: str, policy: Policy, isolation: Isolation, enforcement: Enforcement, shadow: PolicyLike | None
    ) -> contextlib.AbstractContextManager[Prepared]:
        """Hold the kernel tables of a policy, and of its shadow, until the sandbox has them. Starts what is to run."""
        self.start()
        translated = host_error_context(f"spawn {name!r}: prepare policy {policy.name!r}")
        held = self._runtime.tables.hold(policy, isolation, enforcement, translated)
        return held if shadow is None else self._shadowed(held, isolation, shadow, translated)

    @contextlib.contextmanager
    def _shadowed(
        self,
        held: contextlib.AbstractContextManager[Prepared],
        isolation: Isolation,
        shadow: PolicyLike,
        translated: host_error_context,
    ) -> Iterator[Prepared]:
        with held as own, contextlib.ExitStack() as stack:
            with translated:
                watching = choose_policy(shadow, None, None, None)
                prepared = stack.enter_context(self._runtime.tables.hold_shadowed(own, watching, isolation))
            yield prepared

    def _spawn_cell(
        self, order: _Order, env: dict[str, str], cwd: str | None, given: GivenDirectory | None, *, copied: bool
    ) -> Sandbox:
        """Hand out a standby cell where one fits, a warm cell otherwise."""
        cell = CellOrder(order.policy, order.prepared, order.enforcement, env, cwd, given, copied)
        runtime = self._runtime
        started, native = runtime.started, runtime.plan.is_native(order.prepared)
        standby, assigner = started.standby[native], started.assigner
        assert assigner is not None
        runtime.plan.require_listener()  # it may have died since a standby cell was bound
        with runtime.entering(order.context.sandbox, order.prepared.compiled) as entrance:
            if entrance is not None:
                cell = msgspec.structs.replace(cell, env={**runtime.egress.environment(entrance), **env})
            sandbox = None
            usual = cwd is None or cwd == msgspec.structs.replace(cell, cwd=None).directory
            alike = given is None and not copied and usual
            if alike and (ready := standby.take(cell)) is not None:
                sandbox = assigner.adopt(ready, order.context, cell)
            if sandbox is None:
                sandbox = assigner.spawn(started.pools()[native], order.context, cell, native=native)
            if entrance is not None:
                runtime.admit_to_proxy(sandbox.id, entrance)
        order.equip(runtime, sandbox)
        if cell.env or cwd is not None or given is not None or copied:
            # one sandbox's own, and not for those that stand by
            cell = msgspec.structs.replace(cell, env={}, cwd=None, given=None, copied=False)
        standby.spawned(cell)
        return sandbox

    def _spawn_thread(self, order: _Order) -> SandboxThread:
        runtime = self._runtime
        threads = runtime.started.threads
        assert threads is not None
        runtime.plan.require_listener()  # it may have died since that thread was attached
        sandbox = threads.spawn(order.context, ThreadOrder(order.policy, order.prepared, order.enforcement))
        order.equip(runtime, sandbox)
        return sandbox

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
        context = msgspec.structs.replace(context, traceparent=tracing.traceparent())
        return self.recorder.record(merge(context, record, None, broker_reporter=Reporter.SUPERVISOR))

    @overload
    async def aspawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Literal["process"] = "process",
        **options: Unpack[SpawnOptions],
    ) -> Sandbox: ...
    @overload
    async def aspawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Literal["thread"],
        **options: Unpack[SpawnOptions],
    ) -> SandboxThread: ...
    @overload
    async def aspawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Isolation,
        **options: Unpack[SpawnOptions],
    ) -> Sandbox | SandboxThread: ...
    async def aspawn(
        self,
        name: str,
        policy: PolicyLike | None = None,
        *,
        isolation: Isolation = "process",
        **options: Unpack[SpawnOptions],
    ) -> Sandbox | SandboxThread:
        """Like `spawn`, without blocking the event loop; a cancelled task leaves no sandbox."""
        import asyncio

        if options.get("actor") is None:
            options["actor"] = current_actor()  # of this task: a thread of the pool has none
        if given := options.get("functions"):
            options["functions"] = make_offer(given, asyncio.get_running_loop())
        if (answers := options.get("on_ask")) is not None:
            options["on_ask"] = make_asker(answers, options.get("ask_timeout", 30.0), asyncio.get_running_loop())
        run = functools.partial(self.spawn, name, policy, isolation=isolation, **options)
        # what confines this task's thread confines a sandbox thread, too
        inheriting = isolation == "thread"
        return await self._runtime.run_blocking(run, undo=lambda late: late.close(), inheriting=inheriting)

    # -- control --------------------------------------------------------------------------------------------

    def reload_policy(self, name: str, policy: PolicyLike, token: str | None = None) -> int:
        """Reload every live sandbox whose policy is called `name`; return how many. See `Sandbox.reload_policy`.

        A sandbox that cannot be reloaded keeps its policy, or is killed (SandboxDied); the others are reloaded before
        its error is raised. Raises ValueError for the name of a sandbox that is none of a policy: nothing would be
        reloaded; SandboxError where the supervisor does not run; TypeError for what is no policy, PolicySyntaxError,
        OSError for a file that cannot be read.
        """
        runtime = self._runtime
        runtime.check_token(token, "reload", f"policy {name}")
        living = [one for one in runtime.registry.live() if not one.closed]
        chosen = [one for one in living if one.context.policy == name]
        if not chosen and (same := next((one for one in living if one.name == name), None)) is not None:
            raise ValueError(
                f"reload policy {name!r}: no policy here has that name, but a sandbox, whose policy is "
                f"{same.context.policy!r}. Hint: its own `reload_policy(policy)` reloads that one sandbox"
            )
        return runtime.reload_all(chosen, as_policy("reload_policy: policy", policy))

    def kill(self, name: str, token: str | None = None) -> int:
        """Kill every live sandbox called `name`; return how many. Raises PolicyAuthError for a wrong token."""
        self._runtime.check_token(token, "kill", f"sandbox {name}")
        doomed = [one for one in self._runtime.registry.live() if one.name == name and not one.closed]
        for session in doomed:
            session.end("killed by the host")
        return len(doomed)
