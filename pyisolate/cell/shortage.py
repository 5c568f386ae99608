"""Why no cell comes: what has failed since the last one that came, and when the next one is waited for no more."""

from __future__ import annotations

import time

from ..native.result import advice, cause_in_host
from .zygote_process import ZygoteError

#: A shortage may pass: who waits for a cell asks again, until nothing but failures has come for so long (seconds).
_GIVE_UP_AFTER_S = 2.0


class Shortage:
    """What has failed. Its owner has a lock around each call."""

    def __init__(self) -> None:
        #: how much has failed in all
        self.failures = 0
        self._since: float | None = None
        self._error = ""
        self._hint: str | None = None

    def note(self, why: str, number: int | None) -> None:
        """Note a failure, and the errno that it had."""
        self.failures += 1
        self._error = why
        self._hint = advice(number)
        self._since = self._since or time.monotonic()

    def note_stopped(self) -> None:
        """Note that nothing was asked for: what was sent before has not been read."""
        self._error = "the zygote does not read its requests: is it stopped?"

    def end(self) -> None:
        """A cell has come."""
        self._since = None
        self._error = ""
        self._hint = None

    def raise_if_hopeless(self, started: float, deadline: float) -> None:
        """Raise ZygoteError for who has waited since `started` and until `deadline`, or while all failed."""
        now = time.monotonic()
        failing = self._since is not None and now - max(started, self._since) >= _GIVE_UP_AFTER_S
        if now >= deadline or failing:
            raise ZygoteError(
                f"fork cell: none was ready after {now - started:.1f} s: "
                + (self._error or "the zygote does not answer: is it stopped?"),
                hint=self._hint or "run `pyisolate doctor`; the machine may be out of processes, memory or descriptors",
            )


def cause_of(why: str, met: int | Exception | None) -> tuple[str, int | None]:
    """Return what failed, with its cause, and the errno. `met`: an errno, or what was raised in doing `why`."""
    if not isinstance(met, Exception):
        return why, met
    cause, number = cause_in_host(met) or (str(met), None)
    return f"{why}: {cause}", number
