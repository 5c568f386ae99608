"""The policies of one supervisor with their kernel tables: made once per content, closed when nobody needs them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .kernel.plan import KernelPlan, Prepared
from .policy.compile import compile_policy

if TYPE_CHECKING:
    from .policy import Policy
    from .policy.interpreter import InterpreterFiles

#: How many are kept beside those in use: a host that makes a policy per request must not run out of descriptors.
KEPT = 64


class PreparedPolicies:
    """Kernel tables by policy. Thread-safe. `used` returns those that sandboxes have."""

    def __init__(self, plan: KernelPlan, used: Callable[[], list[Prepared | None]]) -> None:
        self._plan, self._used = plan, used
        self.interpreter: InterpreterFiles | None = None
        self._tables: dict[tuple[str, str], Prepared] = {}
        self._shadows: dict[tuple[str, str], Prepared] = {}
        #: by id: a spawn or a reload is about to send their descriptors, which must stay the ones they are
        self._held: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._making = threading.Lock()

    @contextlib.contextmanager
    def hold(self, policy: Policy, isolation: str = "process", enforcement: str = "strict") -> Iterator[Prepared]:
        """Compile a policy and its kernel tables, once per content; they stay open meanwhile.

        Raises EnforcementError, PolicySyntaxError.
        """

        def make() -> Prepared:
            return self._plan.prepare(compile_policy(policy, interpreter=self.interpreter), isolation, enforcement)

        with self._holding(self._tables, (policy.version, f"{isolation}/{enforcement}"), make) as prepared:
            yield prepared

    @contextlib.contextmanager
    def hold_shadowed(self, prepared: Prepared, shadow: Policy) -> Iterator[Prepared]:
        """Have the sandbox of a policy watched by another one; its own tables are shared, not copied."""

        def make() -> Prepared:
            return self._plan.prepare_shadow(compile_policy(shadow, interpreter=self.interpreter))

        with self._holding(self._shadows, (shadow.version, "shadow"), make) as tables:
            yield self._plan.shadowed(prepared, tables)

    @contextlib.contextmanager
    def keep(self, prepared: Prepared) -> Iterator[bool]:
        """Hold tables that were made before; False where they are closed already."""
        with self._lock:
            there = any(one is prepared for one in self._tables.values())
            self._held[id(prepared)] += there
        try:
            yield there
        finally:
            if there:
                self._let_go(prepared)

    @contextlib.contextmanager
    def _holding(
        self, kept: dict[tuple[str, str], Prepared], key: tuple[str, str], make: Callable[[], Prepared]
    ) -> Iterator[Prepared]:
        prepared = self._take(kept, key)
        if prepared is None:
            with self._making:
                prepared = self._take(kept, key)
                if prepared is None:
                    prepared = make()
                    with self._lock:
                        kept[key] = prepared
                        self._held[id(prepared)] += 1
                    self._evict(kept)
        try:
            yield prepared
        finally:
            self._let_go(prepared)

    def _take(self, kept: dict[tuple[str, str], Prepared], key: tuple[str, str]) -> Prepared | None:
        with self._lock:
            if (found := kept.pop(key, None)) is not None:
                kept[key] = found  # the most recently used is the last to go
                self._held[id(found)] += 1
            return found

    def _let_go(self, prepared: Prepared) -> None:
        with self._lock:
            self._held[id(prepared)] -= 1
            if self._held[id(prepared)] <= 0:
                del self._held[id(prepared)]

    def _evict(self, kept: dict[tuple[str, str], Prepared]) -> None:
        """Close the oldest that nobody uses. What is held may be many more than are kept: they go with the next one."""
        if len(kept) <= KEPT:
            return
        with self._lock:  # what is let go of here is a sandbox's by then, or never will be
            used = {id(one) for one in self._used()}
            idle = [key for key, one in kept.items() if id(one) not in used and id(one) not in self._held]
            for key in idle[: len(kept) - KEPT]:
                kept.pop(key).close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for one in (*self._tables.values(), *self._shadows.values()):
                one.close()
            self._tables.clear()
            self._shadows.clear()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies; the kernel's tables are the parent's."""
        self._lock, self._making = threading.Lock(), threading.Lock()
        for one in (*self._tables.values(), *self._shadows.values()):
            one.abandon()
        self._tables.clear()
        self._shadows.clear()
