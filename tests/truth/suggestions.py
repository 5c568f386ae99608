"""Apply what an event suggests and do the operation again: it must pass, and nothing beside it.

A suggestion is a promise: after it is applied, once, the operation that was refused is not refused any more. And it is
the smallest: a file beside what it names stays refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyisolate
from pyisolate.policy.suggest import apply

from .measure import attempt
from .operations import Operation
from .world import World, make_world


@dataclass
class Advice:
    """What became of one operation once its event's suggestion was applied."""

    operation: str
    way: str
    suggestion: dict[str, Any] | None
    outcome: str
    events: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """True where the operation was refused nothing the second time."""
        return self.outcome == "passed"


#: The same by a process that the guest makes, whose own errors end there.
_IN_CHILD = """
_child = os.fork()
if not _child:
    try:
        exec({code!r})
    finally:
        os._exit(0)
os.waitpid(_child, 0)
"""


def follow(
    supervisor: pyisolate.Supervisor, operations: Iterable[tuple[Operation, str]], *, in_child: bool = False
) -> list[Advice]:
    """Do each operation, apply the suggestion of its event, and do it again, in a world that is as it was before."""
    with make_world() as world:
        return [_follow(supervisor, world, operation, way, in_child) for operation, way in operations]


def _follow(supervisor: pyisolate.Supervisor, world: World, operation: Operation, way: str, in_child: bool) -> Advice:
    world.restore()
    code = operation.ways()[way].format(**world.names())
    policy = world.policy(denying="denied" in operation.name)
    if in_child:
        code, policy = _IN_CHILD.format(code=code), policy.allow_fork()
    _, events = attempt(supervisor, policy, code)
    suggested = events[0].suggestion if events else None
    if suggested is None:
        return Advice(operation.name, way, None, "no suggestion" if events else "not refused")
    try:
        wider = apply(policy, suggested)
        _, left = attempt(supervisor, wider, code)
        if "fs" in suggested and not _is_refused_beside(supervisor, world, wider):
            return Advice(operation.name, way, suggested, "opens what is beside it")
    except pyisolate.SandboxDied:
        return Advice(operation.name, way, suggested, "passed")  # another program took the guest's place
    except pyisolate.SandboxError as error:
        return Advice(operation.name, way, suggested, f"not enforceable: {error}")
    seen = tuple(f"{e.capability.value} {e.target} {e.code.value} {e.kernel_reason}" for e in left)
    # an error without an event is no refusal: nothing listens there, the file is another user's
    return Advice(operation.name, way, suggested, "refused again" if left else "passed", seen)


def _is_refused_beside(supervisor: pyisolate.Supervisor, world: World, policy: pyisolate.Policy) -> bool:
    """Tell whether a file that no operation is about is refused, beside the directories of those that are."""
    beside = world.root / "beside.txt"
    beside.write_text("not asked for")
    beside.chmod(0o644)
    _, events = attempt(supervisor, policy, f"c.open({str(beside)!r}.encode(), 0)")
    return bool(events)
