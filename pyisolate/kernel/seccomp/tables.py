"""The listener's tables of policies, each compiled once for all sandboxes of one kind."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import NamedTuple

from ...choices import CellKind
from ...native import notify as native
from ...policy.compiled import CompiledPolicy
from .table import compile_table

_REMEMBERED_POLICIES = 256


class Table(NamedTuple):
    """A compiled table, what it was made of, and serial and policy of its shadow's."""

    policy: CompiledPolicy
    shadow: CompiledPolicy | None
    table: native.Policy
    watched: tuple[int, CompiledPolicy] | None


class Tables:
    """The tables that are compiled. The caller keeps others from it."""

    def __init__(self) -> None:
        self._serials = itertools.count(1)
        # the policies are kept with their table: their ids must not be another's
        self._compiled: OrderedDict[tuple[int, int, CellKind, bool], Table] = OrderedDict()

    def of(self, policy: CompiledPolicy, *, kind: CellKind, full: bool, shadow: CompiledPolicy | None = None) -> Table:
        """Return a policy's table; `shadow` refuses nothing, and what it would refuse is recorded."""
        key = (id(policy), id(shadow), kind, full)
        watched = None if shadow is None else self.of(shadow, kind=kind, full=full).table
        found = self._compiled.get(key)
        if found is None:
            table = compile_table(policy, serial=next(self._serials), kind=kind, full=full, shadow=watched)
            of_shadow = None if watched is None or shadow is None else (watched.serial, shadow)
            found = self._compiled[key] = Table(policy, shadow, table, of_shadow)
            if len(self._compiled) > _REMEMBERED_POLICIES:
                self._compiled.popitem(last=False)
        return found
