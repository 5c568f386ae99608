"""The policies of one supervisor with their kernel tables: made once per content, closed when no sandbox needs them."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..choices import Enforcement, Isolation
from ..errors import EnforcementError
from ..kernel.plan import KernelPlan
from ..kernel.prepared import Prepared
from ..policy.compile import compile_policy
from ..policy.compiled import CompiledPolicy
from ..policy.packages import editables
from ..policy.searched import Searched, searched_by
from ..policy.web import by_name

if TYPE_CHECKING:
    from ..policy import Policy
    from ..policy.interpreter import InterpreterFiles

#: How many are kept beside those in use: a host that makes a policy per request must not run out of descriptors.
KEPT = 64
#: How long the addresses of granted host names are taken for granted (seconds); a name's own time to live is not known.
PINNED_S = 60.0


class PreparedPolicies:
    """Kernel tables by policy. Thread-safe. `used` returns those that sandboxes have."""

    def __init__(
        self,
        plan: KernelPlan,
        used: Callable[[], list[Prepared | None]],
        lead_to_proxy: Callable[[CompiledPolicy], CompiledPolicy],
    ) -> None:
        self._plan, self._used, self._lead_to_proxy = plan, used, lead_to_proxy
        self.interpreter: InterpreterFiles | None = None
        self._tables: dict[tuple[str, str], Prepared] = {}
        self._shadows: dict[tuple[str, str], Prepared] = {}
        #: replaced by others, and still some sandbox's
        self._stale: list[Prepared] = []
        self._pinned_at: WeakKeyDictionary[Prepared, float] = WeakKeyDictionary()
        #: by id: a spawn or a reload is about to send their descriptors, which must stay the ones they are
        self._held: Counter[int] = Counter()
        self._lock = threading.Lock()
        #: for tables that are being made, what others wait for that need the same, and how many do. Others wait for
        #: none of it: a place may lie on a file system that does not answer.
        self._making: dict[tuple[str, str], tuple[threading.Lock, int]] = {}

    def searched_by(self, policy: CompiledPolicy) -> Searched:
        """Return what imports search under a policy, with what site directories lead to at the first look."""
        return searched_by(policy, self.interpreter, self._editable)

    @functools.cached_property
    def _editable(self) -> tuple[str, ...]:
        return () if self.interpreter is None else editables(self.interpreter).directories

    def hold(
        self,
        policy: Policy,
        isolation: Isolation = "process",
        enforcement: Enforcement = "strict",
        making: contextlib.AbstractContextManager[None] | None = None,
    ) -> contextlib.AbstractContextManager[Prepared]:
        """Compile a policy and its kernel tables, once per content; they stay open in this block.

        `making`, which may be entered again, is entered while they are looked for and made: what the block raises is
        no error of that.

        Raises EnforcementError, PolicySyntaxError.
        """

        def make() -> Prepared:
            return self._plan.prepare(self._compile(policy, isolation), isolation, enforcement)

        def current(prepared: Prepared) -> bool:
            return prepared.current and self._addresses_hold(policy, prepared)

        key = policy.version, f"{isolation}/{enforcement}"
        return _Holding(lambda: self._acquire(self._tables, key, make, current), self._let_go, making)

    def _compile(self, policy: Policy, isolation: Isolation = "process") -> CompiledPolicy:
        """Return a policy's tables; one that grants by name leads to the egress proxy, which only cells can use."""
        compiled = compile_policy(policy, interpreter=self.interpreter)
        if not by_name(compiled):
            return compiled
        if isolation == "thread":
            rule = next(rule.text for rule in compiled.web if rule.allow)
            raise EnforcementError(
                f"policy {policy.name!r}, {rule}: a sandbox thread has the host's environment and connections, and "
                "cannot be led to the egress proxy",
                rule=rule,
                missing="egress proxy",
                hint="use isolation='process', or grant the host by its exact name or address",
            )
        return self._lead_to_proxy(compiled)

    def _addresses_hold(self, policy: Policy, prepared: Prepared) -> bool:
        """True while granted host names have the addresses they were pinned to; asked again after a while."""
        pinned = prepared.compiled.pinned_hosts
        if not pinned or time.monotonic() - self._pinned_at[prepared] < PINNED_S:
            return True
        now = compile_policy(policy, interpreter=self.interpreter).pinned_hosts
        if {host: set(known) for host, known in now.items()} != {host: set(known) for host, known in pinned.items()}:
            return False
        self._pinned_at[prepared] = time.monotonic()
        return True

    @contextlib.contextmanager
    def hold_shadowed(self, prepared: Prepared, shadow: Policy, isolation: Isolation) -> Iterator[Prepared]:
        """Have the sandbox of a policy watched by another one; its own tables are shared, not copied."""

        def make() -> Prepared:
            return self._plan.prepare_shadow(self._compile(shadow))

        key = shadow.version, "shadow"
        with _Holding(lambda: self._acquire(self._shadows, key, make, lambda _: True), self._let_go) as tables:
            yield self._plan.shadowed(prepared, tables, isolation)

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

    def _acquire(
        self,
        kept: dict[tuple[str, str], Prepared],
        key: tuple[str, str],
        make: Callable[[], Prepared],
        current: Callable[[Prepared], bool],
    ) -> Prepared:
        """Return tables that are held until `_let_go`."""
        prepared = self._take(kept, key)
        try:
            if prepared is not None and current(prepared):
                return prepared
        except BaseException:
            if prepared is not None:
                self._let_go(prepared)
            raise
        if prepared is not None:
            self._retire(kept, key, prepared)
        with self._alone(key):
            prepared = self._take(kept, key)
            if prepared is None:
                prepared = make()
                with self._lock:
                    self._pinned_at[prepared] = time.monotonic()
                    kept[key] = prepared
                    self._held[id(prepared)] += 1
                self._evict(kept)
        return prepared

    @contextlib.contextmanager
    def _alone(self, key: tuple[str, str]) -> Iterator[None]:
        """Be the only one that makes these tables in this block."""
        with self._lock:
            making, count = self._making.get(key, (threading.Lock(), 0))
            self._making[key] = making, count + 1
        try:
            with making:
                yield
        finally:
            with self._lock:
                _, count = self._making.pop(key)
                if count > 1:
                    self._making[key] = making, count - 1

    def _take(self, kept: dict[tuple[str, str], Prepared], key: tuple[str, str]) -> Prepared | None:
        with self._lock:
            if (found := kept.pop(key, None)) is not None:
                kept[key] = found  # the most recently used is the last to go
                self._held[id(found)] += 1
            return found

    def _retire(self, kept: dict[tuple[str, str], Prepared], key: tuple[str, str], prepared: Prepared) -> None:
        """Take tables out of use that name other places than their policy does now; their sandboxes keep them."""
        self._let_go(prepared)
        with self._lock:
            if kept.get(key) is prepared:
                self._stale.append(kept.pop(key))

    def _let_go(self, prepared: Prepared) -> None:
        with self._lock:
            self._held[id(prepared)] -= 1
            if self._held[id(prepared)] <= 0:
                del self._held[id(prepared)]

    def _evict(self, kept: dict[tuple[str, str], Prepared]) -> None:
        """Close the oldest that no sandbox uses. More may be held than are kept: those go with the next one."""
        if len(kept) <= KEPT and not self._stale:
            return
        with self._lock:  # what is let go of here is a sandbox's by then, or never will be
            used = {id(one) for one in self._used()}
            idle = [key for key, one in kept.items() if id(one) not in used and id(one) not in self._held]
            for key in idle[: max(0, len(kept) - KEPT)]:
                kept.pop(key).close()
            idle_stale = [one for one in self._stale if id(one) not in used and id(one) not in self._held]
            for one in idle_stale:
                self._stale.remove(one)
                one.close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for one in (*self._tables.values(), *self._shadows.values(), *self._stale):
                one.close()
            self._tables.clear()
            self._shadows.clear()
            self._stale.clear()

    def abandon(self) -> None:
        """In a forked child of the host: close the copies; the kernel's tables are the parent's."""
        self._lock, self._making = threading.Lock(), {}
        for one in (*self._tables.values(), *self._shadows.values(), *self._stale):
            one.abandon()
        self._tables.clear()
        self._shadows.clear()
        self._stale.clear()


_NOTHING = contextlib.nullcontext()


class _Holding(contextlib.AbstractContextManager[Prepared]):
    """Tables held in a block. A class, where a generator would do: each `spawn` enters one."""

    __slots__ = ("_acquire", "_held", "_let_go", "_making")

    def __init__(
        self,
        acquire: Callable[[], Prepared],
        let_go: Callable[[Prepared], None],
        making: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        self._acquire, self._let_go, self._making = acquire, let_go, making or _NOTHING

    def __enter__(self) -> Prepared:
        with self._making:
            self._held = self._acquire()
        return self._held

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._let_go(self._held)
