"""A program as guest, for tasks of asyncio: `Sandbox.apopen`, after `asyncio.create_subprocess_exec`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import SandboxError
from .guest_process import GuestProcess, begin
from .received import Sink
from .running import RunningProgram

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent
    from .received import OutputSink
    from .running import InputSource, ProgramSession


class _Feeding(Sink):
    """Passes on to a stream of the loop what comes on a thread of the host; nothing once that loop has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.reader = loop, asyncio.StreamReader(loop=loop)

    def feed(self, data: bytes) -> None:
        """Take what came."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.reader.feed_data, bytes(data))

    def end(self) -> None:
        """No more comes."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.reader.feed_eof)


class AsyncGuestProcess:
    """A running program, made by `Sandbox.apopen`. Its names are those of `asyncio.subprocess.Process`.

    `stdin`, `stdout` and `stderr` are asyncio's streams, of bytes; None where they are no pipe. Signals are coroutines:
    they end when the program was given them. It runs beside the requests of its sandbox, see `GuestProcess`.
    """

    def __init__(self, running: RunningProgram, session: ProgramSession) -> None:
        self._running, self._process, self._session = running, GuestProcess(running), session
        self.args = running.args
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    def __repr__(self) -> str:
        return f"<AsyncGuestProcess: returncode: {self.returncode} args: {self.args!r}>"

    @property
    def pid(self) -> int | None:
        """Its process id, as the guest knows it."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def denials(self) -> tuple[DenialEvent, ...]:
        """What its sandbox was refused while it ran; known once it has ended."""
        return self._process.denials

    async def wait(self) -> int:
        """Wait for the end and return the exit status. Raises why the sandbox ended, where it did.

        A cancelled task waits no more; the program goes on.
        """
        return await self._wait(output=False)

    async def _wait(self, *, output: bool) -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.set)

        self._running.when_ended(wake, output=output)
        await ended.wait()
        return self._process.wait()

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Write `input`, wait for the end, return stdout and stderr (None where they are no pipe).

        What goes to files is written by then. Raises what such a file has raised.
        """
        if input and self.stdin is None:
            raise ValueError("communicate: stdin is no pipe. Hint: apopen(..., stdin=subprocess.PIPE)")
        _, out, err = await asyncio.gather(self._write_all(input), _rest(self.stdout), _rest(self.stderr))
        await self._wait(output=True)
        return out, err

    async def send_signal(self, number: int) -> None:
        """Send the program a signal, where it still runs."""
        await self._session.host.run_blocking(functools.partial(self._process.send_signal, number))

    async def terminate(self) -> None:
        """Send SIGTERM."""
        await self._session.host.run_blocking(self._process.terminate)

    async def kill(self) -> None:
        """Send SIGKILL. What the program started lives on in the sandbox, as it does outside of one."""
        await self._session.host.run_blocking(self._process.kill)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._write_all(None)
        if kind is None:
            await self.wait()
        elif self.returncode is None:  # the first error is the one to see
            with contextlib.suppress(SandboxError):
                await self.kill()
                await self.wait()

    async def _write_all(self, data: bytes | None) -> None:
        if self.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if data:
                self.stdin.write(data)
                await self.stdin.drain()
            self.stdin.close()
            await self.stdin.wait_closed()


async def _rest(stream: asyncio.StreamReader | None) -> bytes | None:
    return None if stream is None else await stream.read()


async def start(
    session: ProgramSession,
    arguments: Any,
    *,
    stdin: InputSource,
    stdout: OutputSink,
    stderr: OutputSink,
    cwd: Any,
    env: Any,
) -> AsyncGuestProcess:
    """Start a program in a cell; see `Sandbox.apopen`."""
    loop = asyncio.get_running_loop()
    feeding = [_Feeding(loop) if _is_pipe(sink) else None for sink in (stdout, stderr)]
    sinks: list[Any] = [fed or sink for fed, sink in zip(feeding, (stdout, stderr), strict=True)]
    call = functools.partial(
        begin, session, arguments, stdin=stdin, stdout=sinks[0], stderr=sinks[1], text=None, cwd=cwd, env=env
    )
    try:
        running = await session.host.run_blocking(call)
    except asyncio.CancelledError:
        session.end("its task was cancelled")
        raise
    made = AsyncGuestProcess(running, session)
    made.stdout, made.stderr = (None if fed is None else fed.reader for fed in feeding)
    if running.stdin is not None:
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop)
        transport, _ = await loop.connect_write_pipe(lambda: protocol, running.stdin)
        made.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
    return made


def _is_pipe(sink: OutputSink) -> bool:
    return isinstance(sink, int) and sink == subprocess.PIPE
