"""Public exceptions. Their fields are the data; `compose` and `with_hint` alone make text of them.

Text is "operation, on subject: cause. Hint: next step.".
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

if TYPE_CHECKING:
    from .sandbox.rich import RichOutput
    from .telemetry.event import DenialEvent


class ErrorFields(TypedDict, total=False):
    """What every error may carry, by keyword."""

    operation: str | None
    subject: str | None
    cause: str | None
    hint: str | None
    errno: int | None


#: What a terminal obeys, and what turns text round that follows (UAX 9).
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def without_controls(text: str, but: str = "\n\t") -> str:
    """Return a guest's text with `\\xNN` or `\\uNNNN` for each control character, but for those of `but`."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in but else _escaped(found[0]), text)


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if char < "\x80" else f"\\u{ord(char):04x}"


def compose(operation: str | None, subject: str | None, cause: str | None) -> str:
    """Return "operation, on subject: cause" of the parts that are known."""
    where = ", on ".join(part for part in (operation, subject) if part)
    return ": ".join(part for part in (where, cause) if part)


def with_hint(summary: str, hint: str | None) -> str:
    """Return an error's whole text."""
    return f"{summary}. Hint: {hint}" if hint else summary


class Written:
    """What a request wrote to its streams: a result and an error both have it."""

    __slots__ = ()

    stdout: str
    stderr: str
    #: of a stream whose text is not all of it
    raw: Mapping[str, bytes]

    @property
    def stdout_bytes(self) -> bytes:
        """What the request had written to stdout, as it came."""
        return self.raw.get("stdout", b"") or self.stdout.encode()

    @property
    def stderr_bytes(self) -> bytes:
        """What the request had written to stderr, as it came."""
        return self.raw.get("stderr", b"") or self.stderr.encode()


class SandboxError(Written, Exception):
    """Base of every error that pyisolate raises on purpose.

    `operation`, `subject`, `cause`, `hint` and `errno` are None where they are not known; a whole `message` takes the
    place of the first three. `summary` is the text without the hint.
    `stdout`, `stderr`: what a failed request had written; `stdout_bytes`, `stderr_bytes`: as it came; `outputs`:
    what it had displayed. `denials`: the events of the request (of an executor's task) that failed, also of refusals
    that the guest caught: what it raises later may follow from one of them. `traceback`: the guest's, with lines of its
    source, where it raised; a note of the error, which the host's logs print, has the frames alone.
    """

    #: errno(3) of the system call that failed. Defined here so that it is pickled, also where OSError has its own.
    errno: int | None = None
    stdout: str = ""
    stderr: str = ""
    outputs: tuple[RichOutput, ...] = ()
    denials: tuple[DenialEvent, ...] = ()
    traceback: str = ""
    #: of a stream whose text is not all of it
    raw: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, message: str | None = None, **fields: Unpack[ErrorFields]) -> None:
        self.operation, self.subject, self.cause = fields.get("operation"), fields.get("subject"), fields.get("cause")
        self.hint, self.errno = fields.get("hint"), fields.get("errno")
        self.summary = compose(self.operation, self.subject, self.cause) if message is None else message
        super().__init__(with_hint(self.summary, self.hint))

    def __reduce__(self) -> tuple[Any, ...]:
        # the class's own arguments differ from `args`, which is the text
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[SandboxError], args: tuple[Any, ...], state: dict[str, Any]) -> SandboxError:
    """Make an error anew from what pickle and copy kept of it."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class RefusalFields(ErrorFields, total=False):
    """What describes the refusal of an operation."""

    denial_event: DenialEvent | None


#: The member itself, under the property of a refusal.
_args = vars(BaseException)["args"]


class _Refused(SandboxError):
    """What the classes of refused operations share.

    A guest looks at few of its refusals, so there one is raised without a description and gets it when it is looked at.
    """

    #: text of `errno` where an operation of the guest was refused, as an OSError has it
    strerror: str | None = None
    #: the path that was asked for. Defined here so that it is pickled
    filename: str | None = None
    #: makes the description that this refusal was raised without
    _describe: Callable[[], RefusalFields] | None = None

    def __init__(
        self, message: str | None = None, *, denial_event: DenialEvent | None = None, **fields: Unpack[ErrorFields]
    ) -> None:
        super().__init__(message, **fields)
        self.denial_event = denial_event

    def __getattr__(self, name: str) -> Any:
        # only what is not there comes here, so nothing of a refusal that is described
        if self._describe is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(described(self), name)

    @property
    def args(self) -> tuple[Any, ...]:
        """The text."""
        return _args.__get__(described(self))  # type: ignore[no-any-return]

    @args.setter
    def args(self, value: Iterable[Any]) -> None:
        _args.__set__(self, tuple(value))

    def __repr__(self) -> str:
        """Return what the text's is."""
        return super(_Refused, described(self)).__repr__()

    def __reduce__(self) -> tuple[Any, ...]:
        return super(_Refused, described(self)).__reduce__()

    def __str__(self) -> str:
        """Return the text alone: OSError would put `errno` and `filename` in its place."""
        return str(self.args[0])

    @property
    def error_code(self) -> str | None:
        """The event's `code` (a `DenialCode` value), or None where no event could be attached."""
        return None if self.denial_event is None else str(self.denial_event.code)

    @property
    def requested_capability(self) -> str | None:
        """What the refused operation needed, as capability and target."""
        return None if self.denial_event is None else self.denial_event.requested_capability

    @property
    def presented_capability(self) -> str | None:
        """The nearest grant that the policy holds, or None."""
        return None if self.denial_event is None else self.denial_event.presented_capability


_R = TypeVar("_R", bound=_Refused)


def undescribed(kind: type[_R], describe: Callable[[], RefusalFields], errno: int, strerror: str) -> _R:
    """Return a refusal that is described when it is looked at; `describe` must not raise. Internal."""
    error = kind.__new__(kind)
    error.__dict__.update(_describe=describe, errno=errno, strerror=strerror)
    return error


def described(error: _R) -> _R:
    """Return a refusal with all that describes it. Internal."""
    describe: Callable[[], RefusalFields] | None = vars(error).get("_describe")
    if describe is not None:
        _Refused.__init__(error, **describe())
        vars(error).pop("_describe", None)
    return error


class PolicyError(_Refused, PermissionError):
    """An operation was refused by the policy; `denial_event` tells which, by which layer and why."""


class RefusedImport(_Refused, ModuleNotFoundError):
    """In the guest: an import that the policy refuses. To a program the module is absent, so that what it does without
    an optional one works (`except ImportError`). The host raises PolicyError where the guest does not catch it.
    """


class RefusedProgram(PolicyError, FileNotFoundError):
    """In the guest: a program that the policy refuses and that is not in its sight. To a program it is absent, so that
    what it does without an optional one works (`except FileNotFoundError`).
    """


class PolicyAuthError(PolicyError):
    """A control operation was attempted without the token that guards it."""


class PolicySyntaxError(SandboxError, ValueError):
    """A policy text or object cannot be read. `file`, `line` (1-based) and `key` say where."""

    def __init__(
        self,
        message: str | None = None,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        **fields: Unpack[ErrorFields],
    ) -> None:
        self.file, self.line, self.key = file, line, key
        if message is None:
            message = compose(fields.get("operation"), fields.get("subject"), fields.get("cause"))
        where = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message, **fields)


class EnforcementError(SandboxError):
    """A rule cannot be enforced by this kernel at the granularity the policy states."""

    def __init__(
        self,
        message: str | None = None,
        *,
        rule: str | None = None,
        missing: str | None = None,
        **fields: Unpack[ErrorFields],
    ) -> None:
        self.rule, self.missing = rule, missing
        super().__init__(message, **fields)


class BuildError(SandboxError):
    """An environment could not be built. `output`: the last lines of the installer's."""

    def __init__(self, message: str | None = None, *, output: str = "", **fields: Unpack[ErrorFields]) -> None:
        self.output = output
        super().__init__(message, **fields)


class GuestError(SandboxError):
    """The guest raised. Type, message and traceback are text: no guest object ever reaches the host.

    `type_name` is one line without control characters, and the error's own text and notes have none but the ends of
    lines and tabs; `message` and `traceback` are the guest's text as it is, as its output is.
    `exit_code`: what an `eval` or `call` gave to `sys.exit`; else None. `shown`: the script has a `sys.excepthook`
    of its own, which was given the exception and has written what there is to say.
    """

    def __init__(
        self,
        type_name: str,
        message: str,
        traceback: str,
        *,
        exit_code: int | None = None,
        shown: bool = False,
        hint: str | None = None,
    ) -> None:
        self.type_name, self.message, self.traceback = without_controls(type_name, ""), message, traceback
        self.exit_code, self.shown = exit_code, shown
        super().__init__(f"guest raised {self.type_name}: {without_controls(message)}", hint=hint)


class HostFunctionError(SandboxError):
    """A function of the host raised, seen in the guest that called it: the exception's type and message, as text."""

    def __init__(self, name: str, type_name: str, message: str) -> None:
        self.type_name, self.message = type_name, message
        super().__init__(f"{name}: {type_name}: {message}")


class LimitExceeded(SandboxError):
    """A limit ended the request or the sandbox. `limit` names it; `used` and `allowed` share its unit."""

    def __init__(
        self,
        message: str | None = None,
        *,
        limit: str,
        used: float | None = None,
        allowed: float | None = None,
        denial_event: DenialEvent | None = None,
        **fields: Unpack[ErrorFields],
    ) -> None:
        self.limit, self.used, self.allowed, self.denial_event = limit, used, allowed, denial_event
        super().__init__(message, **fields)


class TimeoutError(LimitExceeded, builtins.TimeoutError):
    """Wall-clock limit, or the `timeout` of one request or `recv`."""


class MemoryExceeded(LimitExceeded):
    """The sandbox's processes together used more memory than `limits.memory` (bytes)."""


class CPUExceeded(LimitExceeded):
    """The sandbox's processes together used more processor time than `limits.cpu` (seconds)."""


class OutputExceeded(LimitExceeded):
    """stdout and stderr together passed `limits.output` (bytes)."""


class ProcessesExceeded(LimitExceeded):
    """The guest asked for more processes and threads than `limits.processes`."""


class OpenFilesExceeded(LimitExceeded):
    """The guest asked for more descriptors than `limits.open_files`."""


class FileSizeExceeded(LimitExceeded):
    """The guest wrote a file past `limits.file_size` (bytes)."""


class WorkspaceExceeded(LimitExceeded):
    """The guest wrote more into its workspace than that holds (bytes)."""


class DiskExceeded(WorkspaceExceeded):
    """The guest's files together hold more than `limits.disk` (bytes)."""


class FilesExceeded(WorkspaceExceeded):
    """The guest made more files, directories and links than `limits.files`."""


class MessagesExceeded(LimitExceeded):
    """The guest posted more messages than `limits.messages`, or one too large."""


class SandboxClosed(SandboxError):
    """The sandbox was closed or killed by the host before or during the request."""


class SandboxDied(SandboxError):
    """The sandbox ended by itself: `exit_status`, or `signal`, and the `last_words` it wrote to stderr."""

    def __init__(
        self,
        message: str | None = None,
        *,
        exit_status: int | None = None,
        signal: int | None = None,
        last_words: str = "",
        **fields: Unpack[ErrorFields],
    ) -> None:
        self.exit_status, self.signal, self.last_words = exit_status, signal, last_words
        super().__init__(message, **fields)


def describe(error: BaseException) -> dict[str, Any]:
    """Return a plain-data description of an error: type, message, hint, code where it has one."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "hint": getattr(error, "hint", None),
        "code": getattr(error, "error_code", None),
    }
