"""Moves and links between directories: Landlock lets none widen what can be done with a file (EXDEV)."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..capability import Capability
from ..decision import Decision

#: What the kernel compares of both places (linux/landlock.h, LANDLOCK_ACCESS_FS_REFER); METADATA is none of its rights.
_OF_FILES = (Capability.FS_READ, Capability.FS_WRITE, Capability.FS_EXEC)
_OF_DIRECTORIES = (*_OF_FILES, Capability.FS_CREATE, Capability.FS_DELETE)


def widened(
    decide: Callable[[Capability, str], Decision], source: str, target: str, *, directory: bool
) -> list[Decision]:
    """Return the refusals, at `source`, of what its new directory grants: each must be granted where it comes from."""
    place = os.path.dirname(target)
    if os.path.dirname(source) == place:
        return []
    missing = [decide(capability, source) for capability in (_OF_DIRECTORIES if directory else _OF_FILES)]
    return [one for one in missing if one.code is not None and decide(one.capability, place).code is None]
