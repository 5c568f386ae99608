"""The functions of the public contract that act on the default supervisor, which starts with the first `spawn`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from .choices import Isolation
from .native.forked import call_in_child
from .sandbox.process import Sandbox
from .supervisor.control_token import check_token
from .supervisor.options import PolicyLike, SpawnOptions
from .supervisor.supervisor import Supervisor
from .telemetry.alerts import AlertRule, default_engine
from .telemetry.sinks.configure import install_event_sinks
from .telemetry.sinks.protocol import EventSink

if TYPE_CHECKING:
    from .sandbox.thread import SandboxThread

_default: Supervisor | None = None
_default_lock = threading.Lock()


def default_supervisor() -> Supervisor:
    """Return the process's default supervisor; it starts with the first `spawn` and ends with the process."""
    global _default
    with _default_lock:
        if _default is None or _default.closed:
            _default = Supervisor()
        return _default


@call_in_child
def _after_fork_in_child() -> None:
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()


@overload
def spawn(
    name: str,
    policy: PolicyLike | None = None,
    *,
    isolation: Literal["process"] = "process",
    **options: Unpack[SpawnOptions],
) -> Sandbox: ...
@overload
def spawn(
    name: str, policy: PolicyLike | None = None, *, isolation: Literal["thread"], **options: Unpack[SpawnOptions]
) -> SandboxThread: ...
@overload
def spawn(
    name: str, policy: PolicyLike | None = None, *, isolation: Isolation, **options: Unpack[SpawnOptions]
) -> Sandbox | SandboxThread: ...
def spawn(
    name: str, policy: PolicyLike | None = None, *, isolation: Isolation = "process", **options: Unpack[SpawnOptions]
) -> Sandbox | SandboxThread:
    """Spawn a sandbox on the default supervisor; arguments and errors are those of `Supervisor.spawn`."""
    return default_supervisor().spawn(name, policy, isolation=isolation, **options)


@overload
async def aspawn(
    name: str,
    policy: PolicyLike | None = None,
    *,
    isolation: Literal["process"] = "process",
    **options: Unpack[SpawnOptions],
) -> Sandbox: ...
@overload
async def aspawn(
    name: str, policy: PolicyLike | None = None, *, isolation: Literal["thread"], **options: Unpack[SpawnOptions]
) -> SandboxThread: ...
@overload
async def aspawn(
    name: str, policy: PolicyLike | None = None, *, isolation: Isolation, **options: Unpack[SpawnOptions]
) -> Sandbox | SandboxThread: ...
async def aspawn(
    name: str, policy: PolicyLike | None = None, *, isolation: Isolation = "process", **options: Unpack[SpawnOptions]
) -> Sandbox | SandboxThread:
    """Spawn a sandbox without blocking the event loop: `async with await aspawn(...) as sandbox`."""
    return await default_supervisor().aspawn(name, policy, isolation=isolation, **options)


_, *_parameters = inspect.signature(Supervisor.spawn).parameters.values()
_function: Any
for _function in (spawn, aspawn):  # `help` shows what both hand on
    _function.__signature__ = inspect.Signature(_parameters)


def list_active() -> list[Sandbox | SandboxThread]:
    """Return the default supervisor's sandboxes that are not closed, oldest first."""
    return default_supervisor().sandboxes


def reload_policy(name: str, policy: PolicyLike, token: str | None = None) -> int:
    """Reload the default supervisor's sandboxes that run the policy called `name`; return how many.

    Errors are those of `Supervisor.reload_policy`.
    """
    return default_supervisor().reload_policy(name, policy, token)


def set_event_sinks(sinks: Sequence[EventSink], *, token: str | None = None) -> None:
    """Replace the process's sinks, used by every supervisor without its own. The old ones are not closed.

    Raises PolicyAuthError where `set_policy_token` guards it and `token` is another, TypeError for what is no sink.
    """
    check_token(token, "metrics", target="event sinks")
    install_event_sinks(sinks)


def set_alert_rules(rules: Iterable[AlertRule], *, token: str | None = None) -> None:
    """Replace the rules of the process's alert engine; counting starts anew.

    Raises PolicyAuthError where `set_policy_token` guards it and `token` is another.
    """
    check_token(token, "metrics", target="alert rules")
    default_engine().set_rules(rules)
