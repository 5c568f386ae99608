"""Programs as guests: `Sandbox.run`, with the arguments and the answer of `subprocess.run`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GuestError
from .request import Work, check_argv, check_seconds, check_text
from .result import OutputCallback
from .stdin import StdinSource, check_stdin

if TYPE_CHECKING:
    from .session import Session

_MISSING = {"FileNotFoundError": FileNotFoundError, "NotADirectoryError": NotADirectoryError}


def run_command(
    session: Session,
    arguments: Sequence[str | os.PathLike[str]],
    *,
    input: StdinSource | None,
    text: bool,
    timeout: float | None,
    check: bool,
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    on_stdout: OutputCallback | None,
    on_stderr: OutputCallback | None,
) -> subprocess.CompletedProcess[Any]:
    """Run a program in a cell; see `Sandbox.run`."""
    check_seconds("run: timeout", timeout)
    if isinstance(arguments, str | bytes) or not (checked := check_argv("run: arguments", arguments)):
        raise TypeError(
            "run: arguments: must be a list of str. Hint: ['sh', '-c', text] runs a shell, if one is granted"
        )
    directory = None if cwd is None else check_text("run: cwd", os.fspath(cwd))
    environment = None
    if env is not None:
        environment = {check_text("run: env", key): check_text("run: env", value) for key, value in env.items()}
    work = Work("command", args=(checked, directory, environment), stdin=check_stdin("run: input", input))
    try:
        result = session.submit(work, timeout, on_stdout, on_stderr)
    except GuestError as error:
        if (kind := _MISSING.get(error.type_name)) is None:
            raise
        raise kind(f"run {checked[0]!r} in {session.name!r}: {error.message}") from error
    outputs = (result.stdout, result.stderr) if text else (result.stdout_bytes, result.stderr_bytes)
    completed = subprocess.CompletedProcess[Any](list(checked), result.value, *outputs)
    if check:
        completed.check_returncode()
    return completed
