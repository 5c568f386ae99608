"""Programs as guests: `Sandbox.run`, with the arguments and the answer of `subprocess.run`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import GuestError, SandboxError
from .request import Work, check_argv, check_seconds, check_text
from .result import OutputCallback, Result
from .stdin import Stdin, StdinSource, check_stdin

if TYPE_CHECKING:
    from .session import Session

_MISSING = {"FileNotFoundError": FileNotFoundError, "NotADirectoryError": NotADirectoryError}


@dataclass(frozen=True)
class Program:
    """A program that is to run as guest, checked."""

    arguments: tuple[str, ...]
    directory: str | None
    environment: dict[str, str] | None
    #: its stderr goes where its stdout does
    merged: bool = False
    stdin: Stdin | None = None

    def reading(self, stdin: Stdin | None) -> Program:
        """Return it with another stdin."""
        return replace(self, stdin=stdin)

    @property
    def sent(self) -> tuple[Any, ...]:
        """What the guest gets."""
        return self.arguments, self.directory, self.environment, self.merged

    def work(self) -> Work:
        """Return the request that runs it."""
        return Work("command", args=self.sent, stdin=self.stdin)

    def launched(self, pipes: tuple[int, ...]) -> Work:
        """Return the request that starts it, with descriptors of its own."""
        return Work("launch", args=self.sent, pipes=pipes)


def check_program(
    what: str,
    arguments: Any,
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    *,
    merged: bool = False,
) -> Program:
    """Return a program as it can be sent. Raises TypeError, ValueError."""
    if isinstance(arguments, str | bytes) or not (checked := check_argv(f"{what}: arguments", arguments)):
        raise TypeError(
            f"{what}: arguments: must be a list of str. Hint: ['sh', '-c', text] runs a shell, if one is granted"
        )
    directory = None if cwd is None else check_text(f"{what}: cwd", os.fspath(cwd))
    environment = None
    if env is not None:
        environment = {check_text(f"{what}: env", key): check_text(f"{what}: env", one) for key, one in env.items()}
    return Program(checked, directory, environment, merged)


def error_of_start(program: str, sandbox: str, error: BaseException) -> BaseException:
    """Return the error of a request whose program did not start: what `subprocess` raises, or the request's own."""
    kind = _MISSING.get(error.type_name) if isinstance(error, GuestError) else None
    return error if kind is None else kind(f"run {program!r} in {sandbox!r}: {error.message}")  # type: ignore[attr-defined]


def exit_status(result: Result, sandbox: str) -> int:
    """Return a program's exit status as the guest gave it. Raises SandboxError where it gave something else."""
    if type(result.value) is not int:
        raise SandboxError(f"run in {sandbox!r}: the guest gave no exit status, but {type(result.value).__name__}")
    return result.value


def run_command(
    session: Session,
    program: Program,
    *,
    input: StdinSource | None,
    text: bool,
    timeout: float | None,
    check: bool,
    on_stdout: OutputCallback | None,
    on_stderr: OutputCallback | None,
) -> subprocess.CompletedProcess[Any]:
    """Run a program in a cell; see `Sandbox.run`."""
    check_seconds("run: timeout", timeout)
    work = program.reading(check_stdin("run: input", input)).work()
    try:
        result = session.submit(work, timeout, on_stdout, on_stderr)
    except GuestError as error:
        missing = error_of_start(program.arguments[0], session.name, error)
        if missing is error:
            raise
        raise missing from error
    outputs = (result.stdout, result.stderr) if text else (result.stdout_bytes, result.stderr_bytes)
    status = exit_status(result, session.name)
    completed = subprocess.CompletedProcess[Any](list(program.arguments), status, *outputs)
    if check:
        completed.check_returncode()
    return completed
