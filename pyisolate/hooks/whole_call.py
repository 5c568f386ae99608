"""What else a call needs whose operation was refused, so that one advice serves all of it."""

from __future__ import annotations

from ..capability import Capability
from ..policy.suggest import TERMINALS, crosses
from ..records import ALSO_LIMIT
from .operation import Operations

_MOVES = ("os.rename", "os.link")
_DATABASE = "sqlite3.connect"
_TERMINALS = ("os.forkpty", "pty.spawn")


def with_all_of_call(
    also: tuple[tuple[Capability, str], ...], operations: Operations, index: int, hook: str
) -> tuple[tuple[Capability, str], ...]:
    """Return what else the call of a refused operation needs: `also`, and what its hook does not ask about."""
    capability, target, _ = operations[index]
    if hook in _MOVES and crosses(target, named := tuple([one[:2] for one in operations])):
        return named  # granted or not: no rule for one of its names lets it pass
    if hook in _TERMINALS:  # which opens one as well, that no sandbox has
        return (*also, (Capability.FS_WRITE, TERMINALS))
    if hook == _DATABASE and capability is Capability.FS_CREATE:  # a transaction removes its journal
        return (*also, (Capability.FS_DELETE, f"{target}-journal"))[:ALSO_LIMIT]
    made = (Capability.FS_CREATE, target)
    if hook == "open" and any(one[:2] == made for one in operations[:index]):
        return (*also, made)  # granted, but no rule for a name that is not there yet lets the rest pass
    return also
