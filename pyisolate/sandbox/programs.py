"""What a sandbox in a cell can do with programs: `run` and `popen`, after `subprocess`."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from subprocess import PIPE, CompletedProcess
from typing import Any, TypeVar

from .async_process import AsyncGuestProcess, start
from .base import SandboxBase
from .command import check_program, run_command
from .guest_process import GuestProcess, begin
from .result import OutputCallback
from .running import InputSource, OutputSink, ProgramSession
from .stdin import StdinSource

_S = TypeVar("_S", bound=ProgramSession)


class RunsPrograms(SandboxBase[_S]):
    """A sandbox whose guest may be a program."""

    def run(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        input: StdinSource | None = None,
        text: bool = False,
        timeout: float | None = None,
        check: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> CompletedProcess[Any]:
        """Run a program that the policy grants (`allow_exec`) as guest, and return what `subprocess.run` does.

        Output counts towards `limits.output`. `timeout` (seconds) kills it and keeps the sandbox where it can. Raises
        PolicyError where it is refused, FileNotFoundError, CalledProcessError with `check`, and what `exec` raises.
        """
        return run_command(
            self._session,
            check_program("run", arguments, cwd, env),
            input=input,
            text=text,
            timeout=timeout,
            check=check,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
        )

    async def arun(self, arguments: Sequence[str | os.PathLike[str]], **options: Any) -> CompletedProcess[Any]:
        """Like `run`, without blocking the event loop. A cancelled task kills the sandbox."""
        return await self._in_thread(functools.partial(self.run, arguments, **options))

    def popen(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        stdin: InputSource = None,
        stdout: OutputSink = PIPE,
        stderr: OutputSink = PIPE,
        text: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> GuestProcess:
        """Start a program that the policy grants, and return while it runs; `subprocess.Popen` without descriptors.

        It runs beside the requests of this sandbox, and beside others that `popen` started.

        `stdin`: PIPE, or what `exec` takes; by default there is nothing to read. `stdout`, `stderr`: PIPE, DEVNULL, or
        a file that is written to as output comes; `stderr` may be STDOUT. Raises what `run` raises where it cannot
        start.
        """
        return GuestProcess(
            begin(self._session, arguments, stdin=stdin, stdout=stdout, stderr=stderr, text=text, cwd=cwd, env=env)
        )

    async def apopen(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        stdin: InputSource = None,
        stdout: OutputSink = PIPE,
        stderr: OutputSink = PIPE,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncGuestProcess:
        """Like `popen`, for a task of asyncio: its pipes are asyncio's streams, of bytes.

        A task that is cancelled while the program starts kills the sandbox.
        """
        return await start(self._session, arguments, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
