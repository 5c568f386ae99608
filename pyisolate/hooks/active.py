"""The one switch between wrappers that a zygote installs and the hooks that a cell gets at hand-out.

While `hooks` is None everything installed is inert: it calls straight through.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from ..capability import Capability
from ..decision import Decision, Verdict
from ..records import BrokerRecord
from .operation import Operation


class ImportChecks(Protocol):
    """The import allow-list, as import statements ask it."""

    def hides(self, full: str) -> bool:
        """Tell whether a loaded module is not to be found."""
        ...

    @property
    def let_through(self) -> Collection[int]:
        """The threads that import, or have imported, what enforcing would have refused."""
        ...

    def reads(self, path: str) -> bool:
        """Tell whether a file is of such an import, still under way."""
        ...

    def statement(self, name: object, globals_: Mapping[str, Any] | None, names: object, level: object) -> None:
        """Decide what an import statement loads. Raises PolicyError."""
        ...

    def module(self, full: str, names: Sequence[str] = ()) -> None:
        """Decide one module. Raises PolicyError."""
        ...


class HostNames(Protocol):
    """The names that a guest may resolve."""

    def addresses_of(self, host: str) -> tuple[str, ...] | None:
        """Return a granted name's pinned addresses, None for any other."""
        ...

    def pins(self, host: str) -> bool:
        """Tell whether the policy pins the name."""
        ...

    def name_of(self, address: str) -> str | None:
        """Return the granted name of a pinned address."""
        ...

    def resolve(self, host: object, port: object) -> tuple[str, ...] | None:
        """Return the addresses that a name may be used with; None where names are not decided here."""
        ...


class CellHooks(Protocol):
    """The hooks of a cell, as wrappers use them; `guest_hooks.GuestHooks` are these."""

    random_asked: bool
    random_denied: bool

    @property
    def imports(self) -> ImportChecks: ...  # noqa: D102
    @property
    def hosts(self) -> HostNames: ...  # noqa: D102

    def ask(self, capability: Capability, target: str, **facts: Any) -> int:
        """Decide one operation. Raises PolicyError."""
        ...

    def ask_all(
        self, operations: Sequence[Operation], args: tuple[Any, ...] = (), syscall: str = "", hook: str = "ask"
    ) -> int:
        """Decide operations that raise no audit event, maybe none. Raises PolicyError."""
        ...

    def peek(self, capability: Capability, target: str, **facts: Any) -> Decision:
        """Return the broker's decision without reporting or raising."""
        ...

    def observe(self, error: BaseException) -> BrokerRecord | None:
        """Attribute an exception and report it once."""
        ...

    def flush(self) -> None:
        """Report what still waits as a count of repeats."""
        ...

    def after_fork(self) -> None:
        """Start afresh in a child of the guest."""
        ...


class Gate:
    """Holds the process-wide hooks of a cell."""

    __slots__ = ("hooks",)

    def __init__(self) -> None:
        self.hooks: CellHooks | None = None


GATE = Gate()
#: Names of ports (services(5)).
SERVICES = "/etc/services"


def may_run(path: str) -> bool:
    """Tell whether the policy grants a program; nothing is reported."""
    hooks = GATE.hooks
    return hooks is None or hooks.peek(Capability.PROCESS_EXEC, path).verdict is Verdict.ALLOW


def may_read(file: str) -> bool:
    """The same of reading a file."""
    hooks = GATE.hooks
    return hooks is None or hooks.peek(Capability.FS_READ, file).verdict is Verdict.ALLOW
