"""Guards for functions of the host (an agent's tools): the same policies, refusals and events as for sandboxes.

A guard decides by its arguments before the function runs; it confines nothing. What must be confined belongs in a
sandbox: `sandboxed` runs a function there.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import string
from collections.abc import Awaitable, Callable, Collection
from typing import Any, ParamSpec, TypeVar, cast

import msgspec

from . import api
from .actor import GuardPolicy, current_actor, current_caller, current_guard_policy
from .capability import Capability
from .decision import Decision, DenialCode, Mode, Verdict
from .errors import PolicyError
from .policy import Policy
from .policy.compiled import CompiledPolicy
from .records import RefusedOperation
from .sandbox.request import RUNS_IN_A_SANDBOX, Wrapped
from .supervisor.options import PolicyLike, as_policy, check_options, choose_policy
from .telemetry.event import DenialEvent
from .telemetry.host_events import host_context, record_refusal
from .telemetry.recorder import HOST, Recorder, default_recorder

_P = ParamSpec("_P")
_R = TypeVar("_R")

Target = str | Callable[..., object] | None


def guard_denials() -> list[DenialEvent]:
    """Return the stored denials of guards and control operations, oldest first."""
    return default_recorder().events_of(HOST)


def guard(
    capability: Capability | str,
    *,
    target: Target = None,
    policy: GuardPolicy | None = None,
    require_actor: bool = False,
    recorder: Recorder | None = None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function, sync or async, run only where `policy` grants `capability` on `target`.

    `capability`: one of `Capability`, or a name of your own ("send_email"; its events say `control.guard` and the name
    is their target). `target`: text with the arguments' names in braces ("{host}:{port}"), or a function of the
    arguments. Paths (fs.*) are resolved first. Without a policy here or in `acting_as`, nothing is granted.
    Raises PolicyError before the function runs; with `require_actor` and no actor, code ACTOR_REQUIRED.
    """
    known = _known(capability)
    name = capability if isinstance(capability, str) else capability.value

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        check = _Check(function, known, str(name), target, policy, require_actor, recorder)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                check(args, kwargs)
                return await cast(Awaitable[Any], function(*args, **kwargs))

            return cast(Callable[_P, _R], guarded_async)

        @functools.wraps(function)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            check(args, kwargs)
            return function(*args, **kwargs)

        return guarded

    return decorate


#: Options of `spawn` that a policy is made from.
_OF_POLICY = ("limits", "mode", "allowed_imports", "workspace", "environment")


def sandboxed(
    policy: PolicyLike | None = None, *, timeout: float | None = None, name: str | None = None, **options: Any
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Run a function, sync or async, in a sandbox of its own at every call; it returns plain data.

    `policy`: a Policy, a preset's name, or the path of a policy file. `timeout`: seconds for one call. `options` go to
    `spawn`; the actor of this context travels along. What it calls there, itself too, runs in the same sandbox; a
    call of one that is sandboxed by a narrower policy is a TypeError, before anything runs. Raises what `spawn` and
    `Sandbox.call` raise.
    """

    if inspect.isfunction(policy):
        raise TypeError(f"sandboxed: on {policy.__qualname__}: it takes brackets. Hint: @pyisolate.sandboxed()")
    check_options("sandboxed", options)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        label = name or function.__name__
        chosen = None if policy is None else as_policy("sandboxed: policy", policy)
        of_policy = {option: options.get(option) for option in _OF_POLICY}
        wrapped = Wrapped(function, lambda: choose_policy(chosen, **of_policy))

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                spawned = await api.aspawn(label, policy=chosen, **_with_actor(options))
                async with spawned as sandbox:
                    return await sandbox.acall(_driven(function), *args, timeout=timeout, **kwargs)

            setattr(run_async, RUNS_IN_A_SANDBOX, wrapped)
            return cast(Callable[_P, _R], run_async)

        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with api.spawn(label, policy=chosen, **_with_actor(options)) as sandbox:
                return cast(_R, sandbox.call(function, *args, timeout=timeout, **kwargs))

        setattr(run, RUNS_IN_A_SANDBOX, wrapped)
        return run

    return decorate


class _Check:
    """The one path of sync and async guards."""

    def __init__(
        self,
        function: Callable[..., Any],
        capability: Capability,
        name: str,
        target: Target,
        policy: GuardPolicy | None,
        require_actor: bool,
        recorder: Recorder | None,
    ) -> None:
        self._signature = inspect.signature(function)
        if isinstance(target, str):
            _check_target(function, target, self._signature)
        self._capability, self._name, self._target = capability, name, target
        self._custom = capability is Capability.CONTROL_GUARD
        self._policy, self._require_actor, self._recorder = policy, require_actor, recorder
        code = inspect.unwrap(function).__code__ if hasattr(inspect.unwrap(function), "__code__") else None
        self._label = f"{function.__module__}.{function.__qualname__}"
        self._origin = f"{code.co_filename}:{code.co_firstlineno} in {function.__qualname__}" if code else self._label

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        target = self._resolve(args, kwargs)
        policy = self._policy if self._policy is not None else current_guard_policy()
        actor = current_actor()
        decision = self._no_actor(target) if self._require_actor and actor is None else self._decide(policy, target)
        if decision.verdict is Verdict.ALLOW:
            return
        compiled = _compiled(policy) if isinstance(policy, Policy) else policy
        known = compiled if isinstance(compiled, CompiledPolicy) else None
        context = host_context(
            policy=known.name if known is not None else "guard",
            version=known.version if known is not None else "",
            mode=known.mode if known is not None else Mode.ENFORCE,
            actor=actor,
        )
        suggest, recorder = None if self._custom else _suggest, self._recorder
        caller = current_caller() if recorder is None else None
        if caller is not None:  # a guest called: the refusal is one of its sandbox
            recorder, of = caller.recorder, caller.context
            context = msgspec.structs.replace(
                context, sandbox=of.sandbox, sandbox_id=of.sandbox_id, isolation=of.isolation
            )
        event = record_refusal(decision, context, origin=self._origin, suggest=suggest, recorder=recorder)
        if caller is not None:
            caller.attach(event)
        if decision.verdict is Verdict.DENY:
            raise PolicyError(
                f"{self._label}, on {event.target}: {event.broker_reason}",
                denial_event=event,
                hint=_hint(event),
            )

    def _resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if self._target is None:
            return self._name if self._custom else self._label
        if callable(self._target):
            text = str(self._target(*args, **kwargs))
        elif "{" in self._target:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            text = self._target.format_map(bound.arguments)
        else:
            text = self._target
        if self._capability.family == "fs":
            return os.path.realpath(text)  # a link or `..` must not carry a path out of its grant
        return f"{self._name} {text}" if self._custom else text

    def _no_actor(self, target: str) -> Decision:
        return self._deny(target, DenialCode.ACTOR_REQUIRED, "an actor is required and none was given")

    def _decide(self, policy: GuardPolicy | None, target: str) -> Decision:
        if policy is None:
            return self._deny(target, DenialCode.NOT_GRANTED, "no policy is in force here")
        if isinstance(policy, Policy | CompiledPolicy):
            if self._custom:
                return self._deny(target, DenialCode.NOT_GRANTED, f"policies hold no rules for {self._name!r}")
            from .policy.broker import Broker

            return Broker(_compiled(policy)).decide(self._capability, target)
        if callable(policy):
            answer = policy(self._capability, target)
            if isinstance(answer, Decision):
                return answer
            return self._allow(target) if answer is True else self._deny(target, DenialCode.NOT_GRANTED, "not granted")
        return self._by_name(policy, target)

    def _by_name(self, granted: Collection[str], target: str) -> Decision:
        full = target if self._custom else f"{self._name} {target}"
        if isinstance(granted, str):
            granted = (granted,)
        if self._name in granted or full in granted:
            return self._allow(target)
        near = sorted(grant for grant in granted if grant.partition(" ")[0] == self._name)
        if near:
            return self._deny(target, DenialCode.SCOPE_INSUFFICIENT, f"granted is {near[0]!r}", presented=near[0])
        return self._deny(target, DenialCode.NOT_GRANTED, f"{self._name!r} is not granted")

    def _allow(self, target: str) -> Decision:
        return Decision(verdict=Verdict.ALLOW, capability=self._capability, target=target)

    def _deny(self, target: str, code: DenialCode, reason: str, presented: str | None = None) -> Decision:
        return Decision(
            verdict=Verdict.DENY,
            capability=self._capability,
            target=target,
            code=code,
            reason=reason,
            presented=presented,
        )


def _known(capability: Capability | str) -> Capability:
    try:
        return Capability(capability)
    except ValueError:
        if not capability or any(char.isspace() for char in capability):
            raise ValueError(f"guard, capability {capability!r}: a name must not be empty or hold spaces") from None
        return Capability.CONTROL_GUARD


@functools.lru_cache(maxsize=256)
def _compile(policy: Policy) -> CompiledPolicy:
    from .policy.compile import compile_policy

    return compile_policy(policy)


def _check_target(function: Callable[..., Any], target: str, signature: inspect.Signature) -> None:
    """Raise ValueError where the braces of a target name none of the function's arguments."""
    for _, named, _, _ in string.Formatter().parse(target):
        argument = re.split(r"[.\[]", named or "", maxsplit=1)[0]
        if named is not None and argument not in signature.parameters:
            raise ValueError(
                f"guard {function.__qualname__}: target {target!r}: it has no argument {argument!r}. "
                f"Hint: it has {', '.join(signature.parameters) or 'none'}"
            )


def _compiled(policy: Policy | CompiledPolicy) -> CompiledPolicy:
    return policy if isinstance(policy, CompiledPolicy) else _compile(policy)


def _suggest(operation: RefusedOperation) -> dict[str, Any] | None:
    from .policy.suggest import suggestion

    return suggestion(operation)


def _hint(event: DenialEvent) -> str:
    if event.code is DenialCode.ACTOR_REQUIRED:
        return "call it inside `with pyisolate.acting_as(kind, id):`"
    if event.suggestion:
        return f"to allow it, add {event.suggestion} to the policy"
    wanted = event.target if event.capability is Capability.CONTROL_GUARD else event.requested_capability
    return f"grant {wanted!r} in the guard's policy if it should be allowed"


def _with_actor(options: dict[str, Any]) -> dict[str, Any]:
    actor = current_actor()
    return options if actor is None else {"actor": {"kind": actor.kind, "id": actor.id}, **options}


def _driven(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function that runs a coroutine function to its end, in the guest."""

    def drive(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return asyncio.run(function(*args, **kwargs))

    return drive
