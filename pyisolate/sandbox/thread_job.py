"""One request on a sandbox thread, and what comes of it."""

from __future__ import annotations

import queue
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..cell import wire
from .thread_output import Stream

if TYPE_CHECKING:
    from .request import Work


@dataclass(frozen=True)
class Value:
    """A request's value: the guest's own object."""

    value: Any = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Raised:
    """An exception that the guest did not catch. Its text was made on the guest's thread, as that runs its code."""

    failure: wire.Failed
    trace: traceback.TracebackException


@dataclass
class Job:
    """One request on the thread. A queue of C: an exception raised in the guest cannot leave a lock of it held."""

    work: Work
    #: no caller waits for it any more: it does not start
    given_up: bool = False
    answers: queue.SimpleQueue[Value | Raised | tuple[Stream, bytes] | None] = field(default_factory=queue.SimpleQueue)
