"""On whose behalf code of the host runs, and what that actor may do."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Protocol

from .capability import Capability
from .decision import Decision
from .policy import Policy
from .policy.compiled import CompiledPolicy
from .records import Actor, SandboxContext

if TYPE_CHECKING:
    from .telemetry.event import DenialEvent
    from .telemetry.recorder import Recorder

#: What can decide for a guard: a policy, the names of what is granted ("send_email", "net.connect",
#: "net.connect example.org:443"), or a function of capability and target.
GuardPolicy = Policy | CompiledPolicy | Collection[str] | Callable[[Capability, str], "Decision | bool"]


_actor: contextvars.ContextVar[Actor | None] = contextvars.ContextVar("pyisolate_actor", default=None)
_policy: contextvars.ContextVar[GuardPolicy | None] = contextvars.ContextVar("pyisolate_policy", default=None)


@contextlib.contextmanager
def acting_as(kind: str, id: str, *, policy: GuardPolicy | None = None) -> Iterator[Actor]:
    """Name on whose behalf guarded functions run in this context (thread or asyncio task), and what they may do.

    `policy` is used by guards that have none of their own. Contexts nest; the innermost counts.
    """
    if not kind or not id:
        raise ValueError("acting_as: kind and id must not be empty")
    actor = Actor(kind=str(kind), id=str(id))
    named = _actor.set(actor)
    granted = _policy.set(policy if policy is not None else _policy.get())
    try:
        yield actor
    finally:
        _policy.reset(granted)
        _actor.reset(named)


def current_guard_policy() -> GuardPolicy | None:
    """Return what the actor of this context may do, None where `acting_as` was given no policy."""
    return _policy.get()


def current_actor() -> Actor | None:
    """Return the actor of this context, None outside of `acting_as`."""
    return _actor.get()


class Caller(Protocol):
    """The sandbox whose guest called the function of the host that runs."""

    @property
    def context(self) -> SandboxContext:
        """Whose events refusals are."""
        ...

    @property
    def recorder(self) -> Recorder:
        """Where they are recorded."""
        ...

    def attach(self, event: DenialEvent) -> None:
        """Show an event among those of the request that runs."""


_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("pyisolate_caller", default=None)


@contextlib.contextmanager
def called_by(caller: Caller) -> Iterator[None]:
    """Let guards in this block refuse in the name of a sandbox, and decide for its actor if it has one."""
    called, actor = _caller.set(caller), caller.context.actor
    named = _actor.set(actor if actor is not None else _actor.get())
    try:
        yield
    finally:
        _actor.reset(named)
        _caller.reset(called)


def current_caller() -> Caller | None:
    """Return the sandbox that a function of the host runs for, None where none called."""
    return _caller.get()
