"""Randomness of a cell: every cell its own, or, where the policy says so, the same in every run.

Cells are forked from one zygote, so all would start with one state of `random`. What reads the kernel's generator from
C (`random.Random()` without a seed, OpenSSL) is not seen here: see `docs/hooks.md`.
"""

from __future__ import annotations

import _random
import os
import random
import sys
import tempfile
import weakref
from typing import Any

from ..decision import Mode
from ..native.frames import untraced
from ..policy.compiled import CompiledPolicy
from .active import GATE

#: Used where a policy denies randomness and names no seed.
DEFAULT_SEED = 0
_seed = random.Random.seed
#: what that calls, for a number: in a cell each function that runs writes to pages of its own
_set_state = _random.Random.seed
_streams = _random.Random()
#: Generators that were made while the zygote imported, and seeded by no number of their own: by id.
_unseeded: dict[int, weakref.ref[random.Random]] = {}


def renew(entropy: bytes = b"") -> None:
    """Give each generator of this process a state of its own: a cell's are copies of its zygote's. About 20 us.

    A generator of numpy or of a library that was made at its import is not known here; nor is one that was given a
    number to start from, which is meant to be the same everywhere. `entropy`: random bytes, where the kernel's may be
    refused by now.
    """
    entropy = entropy or os.urandom(32)
    seed = int.from_bytes(entropy, "little") << 16
    for number, generator in enumerate(_known()):
        _set_state(generator, seed | number)
        if generator.gauss_next is not None:  # type: ignore[attr-defined] # typeshed does not know it
            generator.gauss_next = None  # type: ignore[attr-defined]
    tempfile._name_sequence = None  # type: ignore[attr-defined]  # noqa: SLF001 - made anew where a process id differs
    if (openssl := sys.modules.get("_ssl")) is not None:
        # OpenSSL 3 looks at the process id as well (openssl_get_fork_id), which may be the zygote's.
        openssl.RAND_add(entropy, 32.0)


def _known() -> list[random.Random]:
    found = (reference() for reference in _unseeded.values())
    return [_global(), *(generator for generator in found if generator is not None)]


def apply(compiled: CompiledPolicy) -> None:
    """Seed this process's `random` (and numpy's, where loaded) for one policy. About 10 us."""
    seed = compiled.random_seed
    if compiled.mode_of("random") is Mode.MONITOR:
        seed = None  # let through
    elif seed is None and not compiled.allow_random:
        seed = DEFAULT_SEED
    if seed is not None:
        _streams.seed(seed)
        _seed(_global(), seed)  # without one, all are as `renew` left them
        for generator in _known()[1:]:
            _seed(generator, _streams.getrandbits(64))
    legacy = sys.modules.get("numpy.random")
    if legacy is not None and hasattr(legacy, "seed"):
        legacy.seed(None if seed is None else seed % 2**32)


def _global() -> random.Random:
    return random._inst


def install() -> None:
    """Make `random.Random()` draw its seed from the policy's where randomness is denied. Cells only; idempotent.

    In the zygote, remember those that were given none.
    """
    if random.Random.seed is not _seed:
        return

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        hooks = GATE.hooks
        if a is None and hooks is not None and hooks.random_denied:
            a = _streams.getrandbits(64)
        elif a is None and hooks is None:
            _unseeded[id(self)] = weakref.ref(self)
        elif hooks is None:
            _unseeded.pop(id(self), None)
        _seed(self, a, version)

    random.Random.seed = untraced(seed, _seed, method=True)  # type: ignore[method-assign]
    random.seed = _global().seed
