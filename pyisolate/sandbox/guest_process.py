"""A program as guest that runs while the host does other things: `Sandbox.popen`, after `subprocess.Popen`."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from ..errors import SandboxError
from ..native.threads import Thread
from .command import Program, check_program, error_of_start, exit_status
from .received import Received, writes_to
from .request import check_seconds
from .result import BytesCallback, OutputCallback
from .session import Session
from .stdin import StdinSource, check_stdin

if TYPE_CHECKING:
    from ..cell import wire
    from ..telemetry.event import DenialEvent

#: A guest may keep from saying that it passed a signal on; who sent it then goes on (seconds).
_SIGNAL_TIMEOUT_S = 5.0
#: PIPE, DEVNULL, or what `exec` takes as `stdin`.
InputSource = StdinSource | None
#: PIPE, DEVNULL, or a file that is written to as output comes; STDOUT for `stderr`.
OutputSink = int | IO[bytes] | IO[str]


class ProgramSession(Session):
    """A session whose guest may be a program: in a cell."""

    #: what `popen` started, until it has ended
    program: RunningProgram | None = None

    def check_free(self) -> None:
        """Raise where a program that `popen` started runs: its user, who would wait here, may be whom it waits for."""
        program = self.program
        if program is not None and not program.is_own_thread:
            raise SandboxError(
                f"run in {self.name!r}: {program.args[0]!r} runs, which popen started",
                hint="one request at a time: wait() for it, or end it with kill()",
            )

    @abc.abstractmethod
    def signal_program(self, number: int) -> None:
        """Send a signal to the program that the request runs."""

    def on_started(self, frame: wire.Started) -> None:
        """Note that the program of a request runs."""
        if self.program is not None:
            self.program.started(frame.pid)


class RunningProgram:
    """The request of one program, as its session and its handle share it."""

    def __init__(self, session: ProgramSession, program: Program, *, text: bool) -> None:
        self._session, self._program, self._text = session, program, text
        self.args = list(program.arguments)
        self.pid: int | None = None
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self.returncode: int | None = None
        #: why there is no exit status of the program's own
        self.error: BaseException | None = None
        self.denials: tuple[DenialEvent, ...] = ()
        self._received: list[Received] = []
        self._at_end: list[Callable[[], object]] = []
        self._thread = self._reports = 0
        self._input = -1
        self._changed = threading.Condition()

    @property
    def is_own_thread(self) -> bool:
        """True in the thread that runs its request."""
        return threading.get_ident() == self._thread

    def started(self, pid: int) -> None:
        """Note that it runs, or was given a signal. The number is the guest's word."""
        with self._changed:
            self.pid = pid
            self._reports += 1
            self._changed.notify_all()

    def open(self, stdin: InputSource, stdout: OutputSink, stderr: OutputSink) -> None:
        """Begin: run the request on a thread of the host, and return when the program runs. Raises why it does not."""
        callbacks = [self._output("stdout", stdout), self._output("stderr", stderr)]
        with contextlib.ExitStack() as undone:
            self._open_input(stdin, undone)
            with self._session.state_lock:
                self._session.check_free()
                self._session.program = self
                undone.callback(self._forget)
            run = functools.partial(contextvars.copy_context().run, self._serve, *callbacks)
            self._session.host.start_call(run)
            undone.pop_all()
        try:
            with self._changed:
                self._changed.wait_for(lambda: self.pid is not None or self.returncode is not None)
        except BaseException:  # Ctrl-C: no caller gets it
            self._session.interrupt()
            raise
        if self.error is not None and self.pid is None:
            self._close_files()
            raise error_of_start(self.args[0], self._session.name, self.error) from self.error

    def _output(self, name: str, sink: OutputSink) -> OutputCallback:
        if isinstance(sink, int) and sink == subprocess.PIPE:
            received = Received()
            self._received.append(received)
            setattr(self, name, received.as_file(text=self._text))
            return BytesCallback(received.feed)
        if isinstance(sink, int) and sink in (subprocess.DEVNULL, subprocess.STDOUT):
            return BytesCallback(lambda _data: None)
        return writes_to(sink)

    def _open_input(self, source: InputSource, undone: contextlib.ExitStack) -> None:
        if not (type(source) is int and source == subprocess.PIPE):
            self._program = self._program.reading(check_stdin("popen: stdin", source))
            return
        self._input, ours = os.pipe2(os.O_CLOEXEC)
        undone.callback(os.close, self._input)
        self.stdin = os.fdopen(ours, "w", encoding="utf-8", buffering=1) if self._text else os.fdopen(ours, "wb")
        undone.callback(self.stdin.close)
        self._program = self._program.reading(check_stdin("popen: stdin", self._input))

    def _serve(self, on_stdout: OutputCallback, on_stderr: OutputCallback) -> None:
        self._thread = threading.get_ident()
        code, error = -signal.SIGKILL, None
        try:
            result = self._session.submit(self._program.work(attended=True), None, on_stdout, on_stderr)
            self.denials = result.denials
            code = exit_status(result, self._session.name)
        except BaseException as raised:
            error = raised
            self.denials = getattr(raised, "denials", ())
        self._forget()
        if self._input >= 0:
            os.close(self._input)
        for one in self._received:
            one.end()
        with self._changed:
            self.error, self.returncode = error, int(code)
            self._changed.notify_all()
            waiting, self._at_end = self._at_end, []
        for call in waiting:
            call()

    def _forget(self) -> None:
        self._session.program = None

    def _close_files(self) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end; False when it does not come in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.returncode is not None, timeout)

    def when_ended(self, call: Callable[[], object]) -> None:
        """Call a function, which must not block or raise, when it has ended: at once, or on a thread of the host."""
        with self._changed:
            if self.returncode is None:
                self._at_end.append(call)
                return
        call()

    def send_signal(self, number: int) -> None:
        """Send it a signal, where it still runs, and wait until it was given it, as `kill(2)` would."""
        if self.returncode is not None:
            return
        with self._changed:
            reports = self._reports
        self._session.signal_program(number)
        if self.is_own_thread:  # in a callback for output: the report would come to this thread
            return
        with self._changed:
            self._changed.wait_for(lambda: self._reports > reports or self.returncode is not None, _SIGNAL_TIMEOUT_S)


class GuestProcess:
    """A running program, made by `Sandbox.popen`. Its methods are those of `subprocess.Popen`, and so are their errors.

    It is a request of its sandbox: others are refused until it has ended. Where the sandbox ends before the program (a
    limit, `close`), `returncode` is -9 and `wait` raises why.
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
        """What it was refused; known once it has ended."""
        return self._running.denials

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status, negative for a signal.

        Raises `subprocess.TimeoutExpired` after `timeout` seconds, and why the sandbox ended, where it did.
        """
        check_seconds("wait: timeout", timeout)
        if not self._running.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        if self._running.error is not None:
            raise self._running.error
        assert self.returncode is not None
        return self.returncode

    def communicate(self, input: str | bytes | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write `input`, wait for the end, return stdout and stderr (None where they are no pipe).

        After a `subprocess.TimeoutExpired` it may be called again, and nothing is lost.
        """
        if input and self.stdin is None:
            raise ValueError("communicate: stdin is no pipe. Hint: popen(..., stdin=subprocess.PIPE)")
        if self._writer is None and self.stdin is not None:
            writer = Thread(target=self._write_all, args=(self.stdin, input), name="pyisolate-input")
            writer.start()
            self._writer = writer
        self.wait(timeout)
        if self._writer is not None:
            self._writer.join()
        files = (self.stdout, self.stderr)
        return tuple(None if one is None else one.read() for one in files)  # type: ignore[return-value] # two of them

    def send_signal(self, number: int) -> None:
        """Send the program a signal, where it still runs."""
        if not 0 < number < signal.NSIG:
            raise ValueError(f"send_signal: {number!r} is no signal")
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
    text: bool,
    cwd: str | os.PathLike[str] | None,
    env: Any,
) -> RunningProgram:
    """Start a program in a cell; see `Sandbox.popen`."""
    session.check_caller()
    session.check_free()
    session.check_open()
    merged = isinstance(stderr, int) and stderr == subprocess.STDOUT
    running = RunningProgram(session, check_program("popen", arguments, cwd, env, merged=merged), text=text)
    running.open(stdin, stdout, stderr)
    return running
