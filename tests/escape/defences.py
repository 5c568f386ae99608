"""Switch one defence off in the supervisor under attack, to see which techniques then turn red.

`PYISOLATE_ESCAPE_WITHOUT=landlock,seccomp` ... A technique that no defence's absence lets through is stopped twice, or
by what cannot be switched off; `python -m tests.escape --without all` prints the lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

VARIABLE = "PYISOLATE_ESCAPE_WITHOUT"


def _without_landlock(supervisor: Any) -> None:
    plan, prepare = supervisor.plan, supervisor.plan.prepare

    def prepared(*arguments: Any) -> Any:
        found = prepare(*arguments)
        if found.ruleset is not None:
            found.ruleset.close()
            found.ruleset = None
        return found

    plan.prepare = prepared


def _without_root_view(supervisor: Any) -> None:
    plan, usable = supervisor.plan, supervisor.plan.usable
    plan.usable = lambda enforcer: enforcer != "root view" and usable(enforcer)
    plan._why_missing = lambda *_: ""
    prepare = plan._prepare_files

    def files(prepared: Any, isolation: str, strict: bool, missing: list[str], notes: list[str]) -> None:
        prepare(prepared, isolation, strict, missing, notes)
        missing[:] = []

    plan._prepare_files = files


def _without_seccomp(supervisor: Any) -> None:
    """The filter lets everything pass; its listener stays, idle."""
    from pyisolate.kernel import seccomp
    from pyisolate.native.seccomp import ALLOW, FilterSpec, compile_filter

    program = compile_filter(FilterSpec(rules=(), default=ALLOW, foreign=ALLOW))
    seccomp.cell_program = lambda **_: program  # type: ignore[assignment]
    seccomp.thread_program = lambda **_: program  # type: ignore[assignment]


def _without_namespaces(supervisor: Any) -> None:
    """No namespaces but those without which there is no root view and no rootless cell."""
    from pyisolate.native import process

    supervisor.plan.namespaces.__class__.clone_flags = property(
        lambda self: process.CLONE_NEWUSER | process.CLONE_NEWNS
    )


def _without_broker(_supervisor: Any) -> None:
    """The guest's broker lets everything through, as if native code went round it; the kernel's tables stay."""
    import msgspec

    from pyisolate.cell import wire
    from pyisolate.decision import Mode

    init = wire.Init

    def loose(**fields: Any) -> wire.Init:
        fields["policy"] = msgspec.structs.replace(fields["policy"], mode=Mode.MONITOR, group_modes={})
        return init(**fields)

    wire.Init = loose  # type: ignore[assignment,misc]


def _without_wire(supervisor: Any) -> None:
    """The host takes every frame at any time."""
    from pyisolate.cell import wire

    def accept(self: Any, frame: Any) -> None:
        if isinstance(frame, wire.Done | wire.Failed):
            self.phase = wire.Phase.IDLE

    wire.Conversation.accept = accept  # type: ignore[method-assign]


DEFENCES: dict[str, Callable[[Any], None]] = {
    "landlock": _without_landlock,
    "root-view": _without_root_view,
    "seccomp": _without_seccomp,
    "namespaces": _without_namespaces,
    "broker": _without_broker,
    "wire": _without_wire,
}


def apply(supervisor: Any) -> None:
    """Switch off what the environment names."""
    for name in filter(None, os.environ.get(VARIABLE, "").split(",")):
        DEFENCES[name](supervisor)
