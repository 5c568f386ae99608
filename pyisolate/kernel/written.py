"""Where a guest can write that nothing counts: `limits.disk` and `limits.files` hold in a workspace alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..decision import Mode
from ..policy.compiled import CompiledPolicy, Limits
from .rootview.paths import WRITING, Places


def sums(limits: Limits) -> list[str]:
    """Return the limits of sums that are set, as a policy states them."""
    stated = (("disk", limits.disk_bytes), ("files", limits.files))
    return [f"limits.{name}: {value}" for name, value in stated if value is not None]


def uncounted(compiled: CompiledPolicy) -> list[str]:
    """Return a line for each limit of a sum that is set, and for the first place that it does not hold in."""
    if not (named := sums(compiled.limits)):
        return []
    place = next(_written(compiled), None)
    return [] if place is None else [f"{one}: nothing counts what is written in {place}" for one in named]


def _written(compiled: CompiledPolicy) -> Iterator[str]:
    """Yield the places outside of a workspace that hold files which the guest may write, or make."""
    if compiled.mode_of("fs") is not Mode.ENFORCE:
        yield "the host's files (fs is in monitor mode)"
        return
    for place in Places.of(compiled):
        if place.in_force & WRITING and not _is_device(place.path):
            yield place.path


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.lstat(path).st_mode)
    except OSError:
        return False
