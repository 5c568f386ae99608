"""Where a guest can write that nothing counts: `limits.disk` and `limits.files` hold in a workspace alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..capability import Capability
from ..decision import Mode
from ..policy.asking import WRITES
from ..policy.compiled import CompiledPolicy, Limits
from .rootview.paths import WRITING, Places


def sums(limits: Limits) -> list[str]:
    """Return the limits of sums that are set, as a policy states them."""
    return list(_stated(limits).values())


def uncounted(compiled: CompiledPolicy) -> dict[Capability, str]:
    """Return the limits of sums that are set, each with the first place that it does not hold in; none if it holds."""
    if not (named := _stated(compiled.limits)) or (place := next(_written(compiled), None)) is None:
        return {}
    return {limit: f"{text}: nothing counts what is written in {place}" for limit, text in named.items()}


def _stated(limits: Limits) -> dict[Capability, str]:
    stated = ((Capability.LIMIT_DISK, "disk", limits.disk_bytes), (Capability.LIMIT_FILES, "files", limits.files))
    return {limit: f"limits.{name}: {value}" for limit, name, value in stated if value is not None}


def _written(compiled: CompiledPolicy) -> Iterator[str]:
    """Yield the places outside of a workspace that hold files which the guest may write, or make."""
    if compiled.mode_of("fs") is not Mode.ENFORCE:
        yield "the host's files (fs is in monitor mode)"
        return
    if WRITES & set(compiled.ask):
        yield "files that the host is asked about"
    for place in Places.of(compiled):
        if place.in_force & WRITING and not _is_device(place.path):
            yield place.path


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.lstat(path).st_mode)
    except OSError:
        return False
