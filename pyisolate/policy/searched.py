"""What imports search under a policy, so what an import of an absent module looks through."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .compiled import CompiledPolicy
from .interpreter import InterpreterFiles

#: Where tracebacks look for the lines of hooks.
_OWN_CODE = str(Path(__file__).resolve().parents[1])


class Searched(msgspec.Struct, frozen=True):
    """Directories that imports search. What lies below one of `trees` are modules, below one of `others` anything."""

    trees: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def directories(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.trees, *self.others)


def searched_by(policy: CompiledPolicy, interpreter: InterpreterFiles | None, others: tuple[str, ...]) -> Searched:
    """Return what imports search under a policy. `others`: where the interpreter's site directories lead."""
    site = policy.site
    if interpreter is None:
        return Searched(() if site is None else (site.path,))
    if site is not None:
        return Searched((site.path, interpreter.stdlib, _OWN_CODE))
    return Searched((interpreter.stdlib, *interpreter.site_dirs, _OWN_CODE), others)
