"""Randomness of a cell: every cell its own, or, where the policy says so, the same in every run.

Cells are forked from one zygote, so all would start with one state of `random`. What reads the kernel's generator from
C (`random.Random()` without a seed, OpenSSL) is not seen here: see `docs/hooks.md`.
"""

from __future__ import annotations

import _random
import random
import sys
from typing import Any

from ..decision import Mode
from ..policy.compiled import CompiledPolicy
from .gate import GATE

#: Used where a policy denies randomness and names no seed.
DEFAULT_SEED = 0
_seed = random.Random.seed
_streams = _random.Random()


def apply(compiled: CompiledPolicy) -> None:
    """Seed this process's `random` (and numpy's, where loaded) for one policy. About 10 us."""
    seed = compiled.random_seed
    if compiled.mode_of("random") is Mode.MONITOR:
        seed = None  # let through
    elif seed is None and not compiled.allow_random:
        seed = DEFAULT_SEED
    if seed is not None:
        _streams.seed(seed)
        _seed(_global(), seed)  # without one, `random` has reseeded itself when this process was forked
    legacy = sys.modules.get("numpy.random")
    if legacy is not None and hasattr(legacy, "seed"):
        legacy.seed(None if seed is None else seed % 2**32)


def _global() -> random.Random:
    return random._inst


def install() -> None:
    """Make `random.Random()` draw its seed from the policy's where randomness is denied. Cells only; idempotent."""
    if random.Random.seed is not _seed:
        return

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        hooks = GATE.hooks
        if a is None and hooks is not None and hooks.random_denied:
            a = _streams.getrandbits(64)
        _seed(self, a, version)

    seed.__doc__, seed.__qualname__ = _seed.__doc__, _seed.__qualname__
    random.Random.seed = seed  # type: ignore[method-assign]
    random.seed = _global().seed
