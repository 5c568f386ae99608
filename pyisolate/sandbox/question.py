"""A question to the host about what its guest was to be refused, and the answers to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ..capability import Capability
from ..records import Actor

Scope = Literal["once", "sandbox", "rule"]


@dataclass(frozen=True)
class Allow:
    """Let it through: this once, in this sandbox from now on, or (`rule`) that and as a rule of `answered_policy`."""

    scope: Scope = "once"

    def __post_init__(self) -> None:
        if self.scope not in ("once", "sandbox", "rule"):
            raise ValueError(f"Allow: {self.scope!r}: must be 'once', 'sandbox' or 'rule'")


@dataclass(frozen=True)
class Deny:
    """Refuse it; the event says why."""

    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise TypeError(f"Deny: reason {self.reason!r}: must be str, not {type(self.reason).__name__}")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that no rule speaks of, and whose guest waits. `suggestion`: the smallest rules that grant it.

    `detail`: what capability and target do not say: where a symbolic link leads, what becomes of mode, times, owner or
    attributes. An answer is for that alone.
    """

    sandbox: str
    sandbox_id: str
    policy: str
    capability: Capability
    target: str
    detail: str = ""
    suggestion: dict[str, Any] | None = None
    actor: Actor | None = None
    pid: int = 0
    tid: int = 0


#: What `spawn(on_ask=)` takes: a function or coroutine function. Anything but Allow is a refusal.
OnAsk = Callable[[Question], "Allow | Deny | Awaitable[Allow | Deny]"]
