"""The exit statuses of `pyisolate run`, and the outcome that each error stands for.

A guest's own `sys.exit` status passes through. 120 to 125 are this program's: they lie below what shells use for
"cannot execute" (126, 127) and for signals (128 and more).
"""

from __future__ import annotations

import enum

from ..errors import (
    EnforcementError,
    GuestError,
    LimitExceeded,
    PolicyError,
    PolicySyntaxError,
    SandboxClosed,
    SandboxDied,
    SandboxError,
    TimeoutError,
)


class OutputLost(Exception):
    """What the guest printed could not be passed on: the reader went away, or a disk is full."""


class Outcome(enum.StrEnum):
    """How a run ended; the `outcome` of `run --json`."""

    SUCCESS = "success"
    EXIT = "exit"
    GUEST_ERROR = "guest_error"
    POLICY = "policy"
    LIMIT = "limit"
    TIMEOUT = "timeout"
    DIED = "died"
    COULD_NOT_START = "could_not_start"
    INTERRUPTED = "interrupted"
    OUTPUT_LOST = "output_lost"


STATUS = {
    Outcome.SUCCESS: 0,
    Outcome.GUEST_ERROR: 1,  # what the interpreter itself gives for an uncaught exception
    Outcome.POLICY: 120,
    Outcome.LIMIT: 121,
    Outcome.TIMEOUT: 124,  # as timeout(1) of coreutils has it
    Outcome.DIED: 122,
    Outcome.COULD_NOT_START: 125,
    Outcome.INTERRUPTED: 130,
    Outcome.OUTPUT_LOST: 1,  # of the interpreter too, whose print raises an OSError
}
#: click's own status for a wrong command line.
USAGE = 2
#: A check, a lint or a demonstration that found what it looks for.
FOUND = 1


def outcome_of(error: BaseException) -> Outcome:
    """Return what an error of `Sandbox.exec` or `spawn` means for the run."""
    if isinstance(error, EnforcementError | PolicySyntaxError):
        return Outcome.COULD_NOT_START
    if isinstance(error, PolicyError):
        return Outcome.POLICY
    if isinstance(error, TimeoutError):
        return Outcome.TIMEOUT
    if isinstance(error, LimitExceeded):
        return Outcome.LIMIT
    if isinstance(error, GuestError):
        # of the guest's own, or of a signal that it sent to itself
        return Outcome.INTERRUPTED if error.type_name == "KeyboardInterrupt" else Outcome.GUEST_ERROR
    if isinstance(error, SandboxDied | SandboxClosed):
        return Outcome.DIED
    if isinstance(error, OutputLost):
        return Outcome.OUTPUT_LOST
    if isinstance(error, KeyboardInterrupt):
        return Outcome.INTERRUPTED
    if isinstance(error, SandboxError | OSError | ValueError):
        return Outcome.COULD_NOT_START
    raise error


def status_of(outcome: Outcome, exit_code: int | None = None) -> int:
    """Return the exit status; `exit_code` is what the guest gave to `sys.exit`."""
    if outcome in (Outcome.SUCCESS, Outcome.EXIT):
        return (exit_code or 0) & 0xFF
    return STATUS[outcome]
