"""A program as guest that runs while the host does other things: `Sandbox.popen`, after `subprocess.Popen`."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from ..errors import SandboxError
from ..native.threads import Thread
from .command import check_program
from .program_options import ProgramText, check_outputs
from .received import OutputSink, come_so_far
from .request import check_seconds
from .running import InputSource, ProgramSession, RunningProgram

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent


class GuestProcess:
    """A running program, made by `Sandbox.popen`. Its methods are those of `subprocess.Popen`, and so are their errors.

    It runs beside the requests of its sandbox, and beside other programs. Where the sandbox ends before the program (a
    limit, `close`), or its own time is up (`limits.wall`), `returncode` is -9 and `wait` raises why.
    """

    def __init__(self, running: RunningProgram) -> None:
        self._running = running
        self.args = running.args
        self.stdin, self.stdout, self.stderr = running.stdin, running.stdout, running.stderr
        self._writer: Thread | None = None

    def __repr__(self) -> str:
        return f"<GuestProcess: returncode: {self.returncode} args: {self.args!r}>"

    @property
    def pid(self) -> int | None:
        """Its number inside the cell, as the guest gave it."""
        return self._running.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._running.returncode

    @property
    def denials(self) -> tuple[DenialEvent, ...]:
        """What its sandbox was refused while it ran; known once it has ended."""
        return self._running.denials

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status, negative for a signal.

        Raises `subprocess.TimeoutExpired` after `timeout` seconds, why the sandbox ended, where it did, and what a file
        for its output has raised: `communicate` waits for all of that output.
        """
        check_seconds("wait: timeout", timeout)
        if not self._running.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self._running.check()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, input: str | bytes | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write `input`, wait for the end, and for that of its output, which is returned (None where it is no pipe).

        After a `subprocess.TimeoutExpired`, which has what came so far, it may be called again, and nothing is lost.
        """
        if input and self.stdin is None:
            raise ValueError("communicate: stdin is no pipe. Hint: popen(..., stdin=subprocess.PIPE)")
        if self._writer is None and self.stdin is not None and self.stdin.closed:
            if input:
                raise ValueError("communicate: stdin is closed. Hint: write the input before that")
        elif self._writer is None and self.stdin is not None:
            writer = Thread(target=self._write_all, args=(self.stdin, input), name="pyisolate-input")
            writer.start()
            self._writer = writer
        if not self._running.wait(timeout, output=True):
            came = (come_so_far(self.stdout), come_so_far(self.stderr))
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, *came)
        self.wait()
        if self._writer is not None:
            self._writer.join()
        files = (self.stdout, self.stderr)
        return tuple(None if one is None else one.read() for one in files)  # type: ignore[return-value] # two of them

    def send_signal(self, number: int) -> None:
        """Send the program a signal, where it still runs. Raises OSError (EINVAL) for what is none."""
        if self.returncode is not None:
            return
        if not 0 <= number < signal.NSIG:
            raise OSError(errno.EINVAL, f"send_signal: {number!r} is no signal")
        if number:  # 0 only asks whether it runs
            self._running.send_signal(int(number))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. What the program started lives on in the sandbox, as it does outside of one."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        if kind is None:
            self.wait()
        else:  # the first error is the one to see
            with contextlib.suppress(SandboxError):
                self.wait()

    @staticmethod
    def _write_all(file: IO[Any], data: str | bytes | None) -> None:
        with contextlib.suppress(BrokenPipeError), file:
            if data:
                file.write(data)


def begin(
    session: ProgramSession,
    arguments: Any,
    *,
    stdin: InputSource,
    stdout: OutputSink,
    stderr: OutputSink,
    text: ProgramText | None,
    cwd: Any,
    env: Any,
) -> RunningProgram:
    """Start a program in a cell; see `Sandbox.popen`."""
    session.check_caller()
    session.check_open()
    check_outputs("popen", stdout)
    merged = isinstance(stderr, int) and stderr == subprocess.STDOUT
    running = RunningProgram(session, check_program("popen", arguments, cwd, env, merged=merged), text=text)
    running.open(stdin, stdout, stderr)
    return running
