"""What a sandbox in a cell can do with programs: `run` and `popen`, after `subprocess`."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from subprocess import PIPE, CompletedProcess
from typing import TYPE_CHECKING, Any, TypeVar

from .base import SandboxBase
from .command import check_program, check_streams, run_command
from .guest_process import GuestProcess, begin
from .program_options import check_no_shell, check_program_text
from .received import OutputSink
from .result import OutputCallback
from .running import InputSource, ProgramSession
from .stdin import StdinSource

if TYPE_CHECKING:
    from .async_process import AsyncGuestProcess

_S = TypeVar("_S", bound=ProgramSession)
#: an argument, or a path
Word = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class RunsPrograms(SandboxBase[_S]):
    """A sandbox whose guest may be a program."""

    def run(
        self,
        arguments: Sequence[Word],
        *,
        stdin: InputSource = None,
        input: StdinSource | None = None,
        stdout: OutputSink | None = None,
        stderr: OutputSink | None = None,
        capture_output: bool = False,
        shell: bool = False,
        cwd: Word | None = None,
        timeout: float | None = None,
        check: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        universal_newlines: bool | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> CompletedProcess[Any]:
        """Run a program that the policy grants (`allow_exec`) as guest, and return what `subprocess.run` does.

        The keywords are its own. Output is captured unless `stdout` and `stderr` say otherwise: PIPE, DEVNULL, a file
        that is written to as output comes, STDOUT for `stderr`. It counts towards `limits.output`. `timeout` (seconds)
        kills the program, keeps the sandbox where it can, and raises TimeoutError, which is a
        `subprocess.TimeoutExpired` too. Raises PolicyError where it is refused, FileNotFoundError, CalledProcessError
        with `check`, ValueError for `shell=True`, and what `exec` raises.
        """
        check_no_shell("run", shell)
        program = check_program("run", arguments, cwd, env)
        form = check_program_text("run", text, universal_newlines, encoding, errors)
        streams = check_streams(
            stdin, input, (stdout, stderr), (on_stdout, on_stderr), form, capture_output=capture_output
        )
        return run_command(self._session, program, streams, timeout=timeout, check=check)

    async def arun(self, arguments: Sequence[Word], **options: Any) -> CompletedProcess[Any]:
        """Like `run`, without blocking the event loop. A cancelled task kills the sandbox."""
        return await self._in_thread(functools.partial(self.run, arguments, **options))

    def popen(
        self,
        arguments: Sequence[Word],
        *,
        stdin: InputSource = None,
        stdout: OutputSink = PIPE,
        stderr: OutputSink = PIPE,
        shell: bool = False,
        cwd: Word | None = None,
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        universal_newlines: bool | None = None,
    ) -> GuestProcess:
        """Start a program that the policy grants, and return while it runs; `subprocess.Popen` without descriptors.

        It runs beside the requests of this sandbox, and beside others that `popen` started.

        `stdin`: PIPE, or what `exec` takes; by default there is nothing to read. `stdout`, `stderr`: PIPE, DEVNULL, or
        a file that is written to as output comes; `stderr` may be STDOUT. Raises what `run` raises where it cannot
        start.
        """
        check_no_shell("popen", shell)
        form = check_program_text("popen", text, universal_newlines, encoding, errors)
        return GuestProcess(
            begin(self._session, arguments, stdin=stdin, stdout=stdout, stderr=stderr, text=form, cwd=cwd, env=env)
        )

    async def apopen(
        self,
        arguments: Sequence[Word],
        *,
        stdin: InputSource = None,
        stdout: OutputSink = PIPE,
        stderr: OutputSink = PIPE,
        cwd: Word | None = None,
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    ) -> AsyncGuestProcess:
        """Like `popen`, for a task of asyncio: its pipes are asyncio's streams, of bytes.

        A task that is cancelled while the program starts kills the sandbox.
        """
        from .async_process import start  # asyncio, which most hosts do without

        return await start(self._session, arguments, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
