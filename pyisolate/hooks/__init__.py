"""The guest's side of the broker: what notices operations, asks, reports refusals and raises them.

    operations      the table: audit event -> operations    (paths, addresses, frames: what arguments mean)
    wrappers        functions without an audit event        importing  the import allow-list
    pinned          names a guest may resolve               seeding    randomness that a policy denies
    guest_hooks     GuestHooks: ask, report, raise          attribution, coalesce: its two memories
    gate            opens the wrappers of a cell at hand-out
    answers         what a hook's answer tells those who join it with a system call

A zygote calls `prewarm` once; a cell calls `install` at hand-out, or `enter` where its zygote has called `make`.
Nothing here is a boundary (`docs/hooks.md`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..capability import Capability
from ..decision import Decision, Verdict
from ..policy.compiled import CompiledPolicy
from ..records import BrokerRecord
from . import attribution, importing, optional, seeding, wrappers
from .active import GATE
from .guest_hooks import Asked, GuestHooks, Shadow
from .operations import EVENTS

_audit: Any
try:  # now, while files can still be read: a sandbox thread installs its hooks after it is confined
    from ..native import audit as _audit
except ImportError:
    _audit = None

__all__ = ["Asked", "GuestHooks", "Shadow", "enter", "install", "leave", "make", "prewarm", "rehearsal"]


#: Seals a cell's callback, which nothing ever releases: any number will do, and a cell may be denied a random one.
_CELL_TOKEN = 1


def prewarm(*, audit: Any = None) -> None:
    """Install everything that costs time, inert: wrappers, import checks, the native hook. In a zygote only.

    `audit` stands in for `pyisolate.native.audit`, for tests.
    """
    _prepare(audit or _native())
    wrappers.install()
    importing.install()
    seeding.install()
    attribution.watch_raises(_observe)
    _warm_up()
    os.register_at_fork(after_in_child=_after_fork)


def install(
    broker: Asked,
    report: Callable[[BrokerRecord], None],
    compiled: CompiledPolicy,
    *,
    process_wide: bool,
    shadow: Shadow | None = None,
    audit: Any = None,
) -> GuestHooks:
    """Put a sandbox under its broker: a whole cell (`process_wide`, after `prewarm`) or the calling thread.

    On a thread the process belongs to the host: only audit events are seen there, plus imports where the guest's
    globals carry `GuestHooks.builtins()`.
    """
    audit = audit or _native()
    if process_wide:
        hooks = make(broker, report, compiled, shadow=shadow, audit=audit)
        enter(hooks, compiled, audit=audit)
        return hooks
    _prepare(audit)

    def detach() -> None:
        audit.release(token)

    hooks = GuestHooks(
        broker,
        report,
        compiled=compiled,
        shadow=shadow,
        isolation="thread",
        sequence=audit.audit_sequence,
        detach=detach,
    )
    audit.set_thread_callback(hooks.callback)
    token = audit.seal()
    return hooks


def make(
    broker: Asked,
    report: Callable[[BrokerRecord], None],
    compiled: CompiledPolicy,
    *,
    shadow: Shadow | None = None,
    audit: Any = None,
) -> GuestHooks:
    """Make the hooks of a cell, inert until it enters them."""
    audit = audit or _native()
    optional.fit(compiled)
    return GuestHooks(
        broker,
        report,
        compiled=compiled,
        shadow=shadow,
        sequence=audit.audit_sequence,
        tell=audit.tell,
        note=audit.note_refusal,
    )


def enter(hooks: GuestHooks, compiled: CompiledPolicy, *, audit: Any = None, for_good: bool = True) -> None:
    """Put a whole cell under hooks that were made for its policy: until `leave`, where it only rehearses."""
    audit = audit or _native()
    seeding.apply(compiled)
    GATE.hooks = hooks
    audit.set_process_callback(hooks.callback)
    if for_good:
        audit.seal(_CELL_TOKEN)


def leave() -> None:
    """End a rehearsal: no broker is asked any more."""
    _native().set_process_callback(None)
    GATE.hooks = None


_preparing = threading.Lock()


def _prepare(audit: Any) -> None:
    """Add the native hook to this process, once; threads of the host pass through it at once."""
    with _preparing:
        if not audit.installed():
            audit.install()
            audit.set_events(sorted(EVENTS))


def _warm_up() -> None:
    """Run what every hand-out and first operation runs, once: a cell inherits the warm code."""
    compiled = CompiledPolicy(name="", version="")
    hooks = GuestHooks(_AllowsAll(), lambda _record: None, compiled=compiled)
    for event in ("open", "os.listdir", "os.remove"):
        hooks.callback(event, ("/", "r", 0))
    hooks.imports.module("json", ("dumps",))
    hooks.attribute(PermissionError())
    hooks.flush()
    seeding.apply(compiled)


class _AllowsAll:
    def decide(self, capability: Capability, target: str, **_facts: Any) -> Decision:
        return Decision(verdict=Verdict.ALLOW, capability=capability, target=target)


@contextlib.contextmanager
def rehearsal(broker: Asked, report: Callable[[BrokerRecord], None], compiled: CompiledPolicy) -> Iterator[GuestHooks]:
    """Do what `install` will do in this cell and undo it, while it waits: hand-out then finds its pages warm."""
    hooks = GuestHooks(broker, report, compiled=compiled)
    try:
        enter(hooks, compiled, for_good=False)
        yield hooks
    finally:
        leave()


def _native() -> Any:
    if _audit is None:
        raise ImportError("hooks, of the native audit hook: pyisolate's native extension is not built here")
    return _audit


def _observe(error: OSError) -> None:
    if (hooks := GATE.hooks) is not None:
        hooks.observe(error)


def _after_fork() -> None:
    if (hooks := GATE.hooks) is not None:
        hooks.after_fork()
