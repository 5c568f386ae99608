"""Programs as guests: `Sandbox.run`, with the arguments and the answer of `subprocess.run`."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import GuestError, SandboxError, TimeoutError
from . import program_options
from .program_options import (
    CapturedOutput,
    ProgramText,
    captured_output,
    check_outputs,
)
from .received import OutputSink
from .request import Work, check_seconds, check_text
from .result import OutputCallback, Result
from .stdin import Stdin, check_stdin

if TYPE_CHECKING:
    from .session import Session

_MISSING = {"FileNotFoundError": FileNotFoundError, "NotADirectoryError": NotADirectoryError}


class Program(msgspec.Struct, frozen=True):
    """A program that is to run as guest, checked."""

    arguments: tuple[str, ...]
    directory: str | None
    environment: dict[str, str] | None
    #: its stderr goes where its stdout does
    merged: bool = False
    stdin: Stdin | None = None
    #: no one reads its stdout, its stderr
    discarded: tuple[bool, bool] = (False, False)

    @property
    def sent(self) -> tuple[Any, ...]:
        """What the guest gets."""
        return self.arguments, self.directory, self.environment, self.merged

    def work(self) -> Work:
        """Return the request that runs it."""
        return Work("command", args=(*self.sent, self.discarded), stdin=self.stdin)

    def launched(self, pipes: tuple[int, ...]) -> Work:
        """Return the request that starts it, with descriptors of its own."""
        return Work("launch", args=self.sent, pipes=pipes)


def check_program(
    what: str,
    arguments: Any,
    cwd: Any,
    env: Mapping[Any, Any] | None,
    *,
    merged: bool = False,
) -> Program:
    """Return a program as it can be sent. Raises TypeError, ValueError."""
    if isinstance(arguments, Iterable) and not isinstance(arguments, str | bytes):
        checked = tuple(_word(f"{what}: arguments", one) for one in arguments)
    else:
        checked = ()
    if not checked:
        raise TypeError(
            f"{what}: arguments: must be a list of str. Hint: ['sh', '-c', text] runs a shell, if one is granted"
        )
    directory = None if cwd is None else _word(f"{what}: cwd", cwd)
    environment = None
    if env is not None:
        own = f"{what}: env"
        environment = {_word(own, key): _word(own, one) for key, one in env.items()}
    return Program(checked, directory, environment, merged)


def _word(what: str, given: Any) -> str:
    """Return a word for a program, whose bytes may be no UTF-8 (os.fsdecode). Raises TypeError, ValueError."""
    text = os.fsdecode(given) if isinstance(given, bytes | os.PathLike) else given
    if not isinstance(text, str):
        raise TypeError(f"{what}: must be str, bytes or a path, not {type(given).__name__}")
    if "\0" in text:
        raise ValueError(f"{what}: embedded null byte")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return check_text(what, text)  # which raises
    return text


def error_of_start(program: str, sandbox: str, error: BaseException) -> BaseException:
    """Return the error of a request whose program did not start: what `subprocess` raises, or the request's own."""
    if not isinstance(error, GuestError):
        return error
    text = f"run {program!r} in {sandbox!r}: {error.message}"
    if error.type_name == "OSError" and error.message.startswith(f"[Errno {errno.E2BIG}]"):
        return OSError(errno.E2BIG, text)
    kind = _MISSING.get(error.type_name)
    return error if kind is None else kind(text)


def exit_status(result: Result, sandbox: str) -> int:
    """Return a program's exit status as the guest gave it. Raises SandboxError where it gave something else."""
    if type(result.value) is not int:
        raise SandboxError(f"run in {sandbox!r}: the guest gave no exit status, but {type(result.value).__name__}")
    return result.value


class Streams(msgspec.Struct, frozen=True):
    """What a program that `Sandbox.run` runs reads and writes, checked."""

    stdin: Stdin | None
    stdout: CapturedOutput
    stderr: CapturedOutput
    text: ProgramText | None
    merged: bool

    @property
    def discarded(self) -> tuple[bool, bool]:
        """Which of both no one reads."""
        return self.stdout.discarded, self.stderr.discarded and not self.merged

    def outputs(self, stdout: bytes, stderr: bytes) -> tuple[Any, Any]:
        """Return what the answer holds of both streams."""
        return self.stdout.of(stdout, self.text), None if self.merged else self.stderr.of(stderr, self.text)


def check_streams(
    stdin: Any,
    input: Any,
    outputs: tuple[OutputSink | None, OutputSink | None],
    callbacks: tuple[OutputCallback | None, OutputCallback | None],
    text: ProgramText | None,
    *,
    capture_output: bool,
) -> Streams:
    """Return the streams of a program, by the keywords of `subprocess.run`. Raises TypeError, ValueError."""
    if stdin is not None and input is not None:
        raise ValueError("run: stdin and input: only one of them can be read. Hint: leave the other out")
    if capture_output and outputs != (None, None):
        raise ValueError("run: capture_output: captures stdout and stderr. Hint: leave those or capture_output out")
    stdout, stderr = outputs
    check_outputs("run", stdout)
    if type(stdin) is int and stdin == subprocess.PIPE:  # without a writer: empty
        stdin = subprocess.DEVNULL
    source = check_stdin("run: stdin", stdin) if input is None else None
    if input is not None:
        source = check_stdin("run: input", input if text is None else text.encoded(input))
    merged = isinstance(stderr, int) and stderr == subprocess.STDOUT
    err = CapturedOutput(callbacks[1]) if merged else captured_output("stderr", stderr, callbacks[1])
    return Streams(source, captured_output("stdout", stdout, callbacks[0]), err, text, merged)


def run_command(
    session: Session, program: Program, streams: Streams, *, timeout: float | None, check: bool
) -> subprocess.CompletedProcess[Any]:
    """Run a program in a cell; see `Sandbox.run`."""
    check_seconds("run: timeout", timeout)
    work = msgspec.structs.replace(
        program, stdin=streams.stdin, merged=streams.merged, discarded=streams.discarded
    ).work()
    arguments = list(program.arguments)
    try:
        with contextlib.ExitStack() as ending:
            streams.stdout.ending(ending)
            streams.stderr.ending(ending)
            result = session.submit(work, timeout, streams.stdout.callback, streams.stderr.callback)
    except TimeoutError as error:
        output = None if streams.stdout.sink is not None else error.stdout_bytes or None
        expired = program_options.TimeoutError(error, arguments, timeout if error.limit == "timeout" else None, output)
        raise expired.with_traceback(error.__traceback__) from error.__cause__
    except GuestError as error:
        missing = error_of_start(program.arguments[0], session.name, error)
        if missing is error:
            raise
        raise missing from error
    outputs = streams.outputs(result.stdout_bytes, result.stderr_bytes)
    completed = subprocess.CompletedProcess[Any](arguments, exit_status(result, session.name), *outputs)
    if check:
        completed.check_returncode()
    return completed
