"""Programs that run beside the requests of a sandbox: the host's end of each one's pipes, on a thread of its own."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import functools
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any

from ..cell.wire import PROGRAM_REPORT, ProgramReports, WireError
from ..errors import SandboxError
from ..native.result import advice, cause_of, is_shortage
from .command import Program, error_of_start, exit_status
from .program_options import ProgramText
from .program_places import ProgramPlaces
from .received import OutputSink, Received, Sink, sink_of
from .session import Session
from .stdin import Feeding, StdinSource, check_stdin

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent

#: A guest may keep from saying that it passed a signal on; who sent it then goes on (seconds).
_SIGNAL_TIMEOUT_S = 5.0
#: A program whose time is up has so long to end; then its sandbox does. What it left running is ended by the watchdog
#: when that time is up, and its output by then (seconds).
_KILL_GRACE_S = 1.0
_PIECE_BYTES = 1 << 16
#: What a pipe holds at most without CAP_SYS_RESOURCE (pipe(7)), in pieces.
_PIECES_OF_A_PIPE = 16
#: PIPE, DEVNULL, or what `exec` takes as `stdin`.
InputSource = StdinSource | None


class ProgramSession(Session):
    """A session whose guest may be a program: in a cell."""

    #: programs of `popen` that run; changed under `state_lock`
    programs: set[RunningProgram]
    #: threads of the host that attend to programs of it
    places: ProgramPlaces

    @abc.abstractmethod
    def program_ended(self, program: RunningProgram) -> None:
        """Forget a program that `popen` had started."""

    @abc.abstractmethod
    def program_lost(self) -> None:
        """End the sandbox, where it still lives: its guest attends to a program no more."""

    @abc.abstractmethod
    def why_lost(self) -> SandboxError:
        """Return how the sandbox of such a program ended."""

    @abc.abstractmethod
    def charge(self, processor_s: float) -> float:
        """Charge the guest for what the host does on its behalf; return how long others that are at work go first."""


class RunningProgram:
    """One program, as its session and its handle share it."""

    def __init__(self, session: ProgramSession, program: Program, *, text: ProgramText | None) -> None:
        self._session, self._program, self._text = session, program, text
        self.args = list(program.arguments)
        self.pid: int | None = None
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self.returncode: int | None = None
        #: why there is no exit status of the program's own, or why its output is not whole
        self.error: BaseException | None = None
        #: the guest attends to it no more: how its sandbox ended is why there is no exit status
        self._lost = False
        self.denials: tuple[DenialEvent, ...] = ()
        self.began = time.monotonic()
        wall = session.budget(None)
        #: when its time is up (CLOCK_MONOTONIC)
        self.deadline = None if wall is None else self.began + wall
        self._wall = wall
        #: where its output goes, by the pipe that it comes from
        self._sinks: dict[int, Sink] = {}
        self._reports = self._orders = -1
        self._orders_lock = threading.Lock()
        self._at_end: list[Callable[[], object]] = []
        self._at_whole_end: list[Callable[[], object]] = []
        self._thread = 0
        self._reported = ProgramReports()
        #: what is closed when it has ended
        self._held = contextlib.ExitStack()
        self._changed = threading.Condition()

    # -- the start ------------------------------------------------------------------------------------------

    def open(self, stdin: InputSource, stdout: OutputSink, stderr: OutputSink) -> None:
        """Start it, by a request, and attend to it on a thread of the host. Raises why it does not run."""
        session = self._session
        with contextlib.ExitStack() as undone, contextlib.ExitStack() as theirs:
            session.places.take(session.name)
            undone.callback(session.places.release)
            undone.callback(self._close_files)
            undone.enter_context(self._held)
            undone.callback(self._let_go)
            try:
                pipes = self._open_pipes(stdin, (("stdout", stdout), ("stderr", stderr)), theirs)
            except OSError as error:
                if not is_shortage(error.errno):  # of a file of the user's
                    raise
                cause = f"make its pipes: {cause_of(error)}"
                raise SandboxError(f"popen in {session.name!r}: {cause}", hint=advice(error.errno)) from error
            with session.state_lock:
                session.programs.add(self)
            undone.callback(session.program_ended, self)
            try:
                result = session.submit(self._program.launched(pipes), None)
            except SandboxError as error:
                raise error_of_start(self.args[0], session.name, error) from error
            self.pid = exit_status(result, session.name)
            theirs.close()  # the end of a pipe shows only where this process has no other end of it
            self._begin_to_attend()
            undone.pop_all()

    def _open_pipes(
        self, stdin: InputSource, outputs: Iterable[tuple[str, OutputSink]], theirs: contextlib.ExitStack
    ) -> tuple[int, ...]:
        """Return the guest's ends: of stdin, stdout and stderr, where orders come from, where reports go."""
        pipes = [self._open_input(stdin, theirs)]
        for name, sink in outputs:
            pipes.append(self._open_output(name, sink, theirs))
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        # kept, as that of stdin is: where SIGPIPE ends programs, no guest must end this one
        self._held.callback(os.close, orders)
        os.set_blocking(self._orders, False)
        self._reports, reports = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, reports)
        # a guest that may open its own end for reading, too, takes back what the poll has seen
        os.set_blocking(self._reports, False)
        return (*pipes, orders, reports)

    def _begin_to_attend(self) -> None:
        try:
            self._session.host.start_thread(functools.partial(contextvars.copy_context().run, self._run))
        except RuntimeError as error:
            raise SandboxError(
                f"popen in {self._session.name!r}: no thread of this process can attend to {self.args[0]!r} ({error})",
                hint="it was killed; this process, its user or its control group is at its limit of threads or memory",
            ) from error

    def _open_input(self, source: InputSource, theirs: contextlib.ExitStack) -> int:
        """Return the end that the program reads. The host keeps one too: see `Feeding`."""
        if type(source) is int and source == subprocess.PIPE:
            reading, ours = os.pipe2(os.O_CLOEXEC)
            self._held.callback(os.close, reading)
            if (text := self._text) is None:
                self.stdin = os.fdopen(ours, "wb")
            else:
                self.stdin = os.fdopen(ours, "w", encoding=text.encoding, errors=text.input_errors, buffering=1)
            return reading
        checked = check_stdin("popen: stdin", source if self._text is None else self._text.encoded(source))
        if checked is not None:
            return self._held.enter_context(Feeding(checked))[0]
        reading, ours = os.pipe2(os.O_CLOEXEC)
        os.close(ours)
        theirs.callback(os.close, reading)
        return reading

    def _open_output(self, name: str, target: OutputSink, theirs: contextlib.ExitStack) -> int:
        """Return the end that the program writes. What the policy does not grant never goes in as a descriptor."""
        if isinstance(target, int) and target == subprocess.PIPE:
            sink: Sink = (received := Received())
            text = self._text
            file = received.as_file(None, None) if text is None else received.as_file(text.encoding, text.errors)
            setattr(self, name, file)
        else:
            sink = sink_of(target)
        ours, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        self._sinks[ours] = sink
        theirs.callback(os.close, writing)
        return writing

    def _close_files(self) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()

    # -- while it runs --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._attend()
        finally:
            self._session.places.release()

    def _attend(self) -> None:
        self._thread = threading.get_ident()
        try:
            self._attend_to_its_end()
        except BaseException as raised:  # a file of the user's that cannot be written
            self._keep(raised)
        finally:
            if self.returncode is None:
                status = self._reported.status
                self._ended(-signal.SIGKILL if status is None else status, self.error)
            with contextlib.suppress(BaseException):  # kept
                self._let_go()

    def _attend_to_its_end(self) -> None:
        poller = select.poll()
        reports = self._reports
        for descriptor in (reports, *self._sinks):
            poller.register(descriptor, select.POLLIN)
        charged = time.thread_time()
        while self.returncode is None or self._sinks:
            left = self._left_s()
            ready = [found for found, _mask in poller.poll(None if left is None else left * 1000 + 1)]
            for pipe in ready:
                if pipe in self._sinks and not self._read(pipe):
                    poller.unregister(pipe)
                    self._end_output(pipe)
            if reports in ready and self.returncode is None and not self._read_reports():
                poller.unregister(reports)  # closed since
            # whatever came, and however long the user's files took it: a guest must not put its end off
            if left == 0 and self._left_s() == 0:
                self._out_of_time()
            before, charged = charged, time.thread_time()
            time.sleep(self._session.charge(charged - before))

    def _left_s(self) -> float | None:
        """Return how long it may still run; once it has ended, how long what it left running may write."""
        if self.deadline is None:
            return None
        grace = 0.0 if self.returncode is None else _KILL_GRACE_S
        return max(0.0, self.deadline + grace - time.monotonic())

    def _read(self, pipe: int) -> int:
        """Take a piece of output, where there is one; 0 at its end."""
        try:
            data = os.read(pipe, _PIECE_BYTES)
        except BlockingIOError:
            return -1
        if data:
            self._session.feed(self._sinks[pipe], data)
        return len(data)

    def _read_reports(self) -> bool:
        """Take what the guest says of it; False once it has ended."""
        try:
            report = os.read(self._reports, PROGRAM_REPORT.size)
        except BlockingIOError:
            return True
        try:
            with self._changed:
                self._reported.accept(report)
                self._changed.notify_all()
        except WireError:
            self._session.program_lost()
            self._lost = True
            self._ended(-signal.SIGKILL, self.error)
            return False
        if self._reported.status is None:
            return True
        self._take_rest()
        self._ended(self._reported.status, self.error)
        return False

    def _take_rest(self) -> None:
        """Take what it wrote before it ended, and no more than a pipe holds: what it started may go on writing."""
        for pipe in self._sinks:
            for _ in range(_PIECES_OF_A_PIPE):
                if self._read(pipe) <= 0:
                    break

    def _out_of_time(self) -> None:
        """Kill it, or the sandbox where that had no effect; once it has ended, take no more output."""
        if self.returncode is not None:
            hint = "raise limits.wall, or have what the program starts write elsewhere"
            outcome = f"output of what {self.args[0]!r} left running was closed"
            self._keep(self._session.time_limit(self._wall, None, outcome, hint))
            for pipe in list(self._sinks):
                self._end_output(pipe)
            return
        if self.error is not None:
            self._session.end(f"{self.args[0]!r}, which popen had started, did not end when its time was up")
            self.deadline = None
            return
        hint = "raise limits.wall, or end the program before"
        self.error = self._session.time_limit(self._wall, None, f"{self.args[0]!r} was killed", hint)
        self._order(signal.SIGKILL)
        self.deadline = time.monotonic() + _KILL_GRACE_S

    def _ended(self, status: int, error: BaseException | None) -> None:
        with contextlib.suppress(Exception):  # its sandbox is gone, and what it was refused is known by that
            self._session.denials.settle()
        began_ns = int(self.began * 1e9)
        self.denials = tuple(one for one in self._session.denials.stored() if one.last_seen >= began_ns)
        self._close_orders()
        if isinstance(error, SandboxError) and not error.denials:
            error.denials = self.denials
        with self._changed:
            self.error, self.returncode = error, status
            self._changed.notify_all()
            waiting, self._at_end = self._at_end, []
        for call in waiting:
            call()
        self._tell_of_whole_end()
        self._held.close()
        self._session.program_ended(self)

    def _end_output(self, pipe: int) -> None:
        """End a stream, whatever its file raises; who waits for that end then finds why."""
        try:
            self._sinks[pipe].end()
        except BaseException as raised:
            self._keep(raised)
            raise
        finally:
            os.close(pipe)
            with self._changed:
                del self._sinks[pipe]
                self._changed.notify_all()
            self._tell_of_whole_end()

    def _tell_of_whole_end(self) -> None:
        with self._changed:
            if self.returncode is None or self._sinks:
                return
            waiting, self._at_whole_end = self._at_whole_end, []
        for call in waiting:
            call()

    def _keep(self, error: BaseException) -> None:
        """Keep the first error, for who asks how it ended: what a file for output raises after that end, too."""
        with self._changed:
            self.error = self.error or error

    def _let_go(self) -> None:
        """Close what is still open. A guest that attends to it and reads no more orders kills it."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._close_orders)
            for pipe in self._sinks:
                closing.callback(self._end_output, pipe)

    def _close_orders(self) -> None:
        """Close the host's ends of its orders and its reports, where they are open."""
        with self._orders_lock:
            for descriptor in (self._orders, self._reports):
                if descriptor >= 0:
                    os.close(descriptor)
            self._orders = self._reports = -1

    # -- its user's side ------------------------------------------------------------------------------------

    def wait(self, timeout: float | None, *, output: bool = False) -> bool:
        """Wait for the end, with `output` for that of its output too; False when it does not come in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.returncode is not None and not (output and self._sinks), timeout)

    def check(self) -> None:
        """Raise why there is no exit status of the program's own, or why its output is not whole."""
        if self.error is not None:
            raise self.error
        if self._lost:
            raise self._session.why_lost()

    def when_ended(self, call: Callable[[], object], *, output: bool = False) -> None:
        """Call a function, which must not block or raise, when it has ended: at once, or on a thread of the host.

        `output`: when its output has ended, too.
        """
        with self._changed:
            if self.returncode is None or (output and self._sinks):
                (self._at_whole_end if output else self._at_end).append(call)
                return
        call()

    def send_signal(self, number: int) -> None:
        """Send it a signal, where it still runs, and wait until it was given it, as `kill(2)` would."""
        with self._changed:
            reported, before = self._reported, self._reported.passed_on
        if not self._order(number) or threading.get_ident() == self._thread:
            return  # in what takes its output: the report would come to this thread
        with self._changed:
            self._changed.wait_for(
                lambda: reported.passed_on > before or self.returncode is not None, _SIGNAL_TIMEOUT_S
            )

    def _order(self, number: int) -> bool:
        """Have the guest send it a signal; False where it has ended."""
        with self._orders_lock:
            if self._orders < 0:
                return False
            self._reported.order()
            with contextlib.suppress(BlockingIOError):  # a guest that reads no orders has thousands to obey
                os.write(self._orders, bytes((number,)))
            return True
