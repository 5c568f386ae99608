"""Thread isolation: a guest on a thread of the host process, confined by per-thread Landlock and seccomp.

A guard rail, not a boundary. The kernel confines the system calls of this thread and of every thread and process it
starts, but memory is shared: a finalizer that the host's garbage collector runs, a patched builtin, or a returned
object's method runs the guest's code on a host thread, unconfined. Use it for code you wrote and want to keep
honest; use process isolation for everything else. What a C loop does cannot be stopped here, and memory and
processes are the host's own.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import itertools
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec

from ..capability import Capability
from ..cell import values, wire
from ..cell.described import error_of, stub
from ..cell.display import Display
from ..cell.source import compile_cell, compile_expression, resolve
from ..cell.streams import exit_code
from ..choices import Enforcement
from ..errors import EnforcementError, SandboxClosed, SandboxError, TimeoutError
from ..hooks.attribution import number_of, raised_by_guest
from ..limits.exceeded import ExceededLimit
from ..limits.usage import Usage
from ..native.threads import Thread
from .attendant import Attendant
from .base import SandboxBase
from .failed import as_kept, keep_traceback
from .process_end import wait_for_the_end
from .request import check_seconds
from .result import OutputCallback, Result
from .session import INTERRUPT_GRACE_S, Session
from .thread_await import ThreadLoop
from .thread_confine import ThreadConfinement
from .thread_job import Job, Raised, Value
from .thread_output import Stream, guest_input, guest_stream, routed

if TYPE_CHECKING:
    from ..cell.described import Description
    from ..kernel.binding import KernelBinding
    from ..kernel.prepared import Prepared
    from ..limits.watchdog import Watchdog
    from ..policy import Policy
    from ..records import BrokerRecord, SandboxContext
    from ..telemetry.pipeline import SandboxTelemetry
    from .host import Host
    from .host_executor import HostSide
    from .request import Work

#: A guest that returns within this time when its sandbox is closed leaves no thread (seconds).
_STOP_TIMEOUT_S = 1.0
#: A guest that waits for a function of the host looks this often whether it shall stop (seconds).
_LOOK_UP_S = 0.2


class ThreadSession(Session):
    """A guest on a thread of this process."""

    isolation = "thread"

    def __init__(
        self,
        host: Host,
        policy: Policy,
        prepared: Prepared,
        context: SandboxContext,
        telemetry: SandboxTelemetry,
        kernel: KernelBinding,
        *,
        host_side: HostSide,
        watchdog: Watchdog,
    ) -> None:
        super().__init__(host, policy, prepared, context, telemetry, kernel)
        self._host_side, self._watchdog = host_side, watchdog
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._request = threading.RLock()
        #: the request that the guest's thread runs
        self._active: Job | None = None
        self._stopping = False
        self._namespace: dict[str, Any] = {}
        #: calls of functions of the host that the guest waits for
        self._calls: dict[int, queue.SimpleQueue[wire.HostAnswer]] = {}
        self._numbers = itertools.count(1)
        self._attendant = Attendant(self._take_here)
        self._written = 0
        self._streams: dict[Stream, TextIO] = {
            name: guest_stream(name, self._on_output) for name in cast("tuple[Stream, ...]", ("stdout", "stderr"))
        }
        self._display, self._loop = Display(self._guest_shown), ThreadLoop(host_side)
        self._confined = threading.Event()
        self.confinement = ThreadConfinement(kernel, prepared, self._on_broker_record)
        self._thread = Thread(target=self._main, name="pyisolate-standby-thread")  # until `adopt_identity`

    def start(self, enforcement: Enforcement) -> None:
        """Start the thread and confine it. Raises EnforcementError where a step failed: then no guest code runs.

        It runs nothing until `adopt_identity`.
        """
        self._thread.start()
        self._confined.wait()
        self.confinement.attach()
        self.report = self.confinement.report(enforcement)
        if (failed := self.confinement.failed) or (enforcement == "strict" and self.report.missing):
            self._stopping = True
            self._jobs.put(None)
            self._thread.join(_STOP_TIMEOUT_S)
            why = [f"{step}: {reason}" for step, reason in failed] or list(self.report.missing)
            raise EnforcementError(f"spawn {self.name!r}: {'; '.join(why)}", hint="run `pyisolate doctor`")

    def adopt_identity(self, context: SandboxContext, policy: Policy) -> None:
        """The thread is spawned: from now on it is the sandbox that `context` names, with the number that it has."""
        self.context = msgspec.structs.replace(context, sandbox_id=self.id)
        self.denials.set_context(self.context)
        self.policy, self.started = policy, time.monotonic()
        self._thread.name = f"sandbox-{self.name}"
        self.state = "idle"
        if (cpu_s := self.limits.cpu_s) is not None:
            self._watchdog.watch(
                self.id,
                limits=msgspec.structs.replace(self.limits, cpu_s=cpu_s, memory_bytes=None, processes=None),
                read_usage=self.usage,
                on_exceeded=lambda _key, exceeded: self._exceeded(exceeded),
            )

    @property
    def pid(self) -> int:
        """The host's own process id: a sandbox thread has no process of its own."""
        return os.getpid()

    def usage(self) -> Usage | None:
        """Return the thread's processor time; memory and processes are the host's own."""
        ident = self._thread.ident
        if ident is None or not self._thread.is_alive():
            return None
        return Usage(cpu_s=time.clock_gettime(time.pthread_getcpuclockid(ident)), source="thread")

    def _exceeded(self, exceeded: ExceededLimit) -> None:
        event = self.denials.limit(Capability.LIMIT_CPU, f"{exceeded.allowed:g}", f"used {exceeded.used:g}")
        error = exceeded.to_error(self.name)
        error.denial_event = event
        self.end_with(error)

    # -- the thread -----------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self.confinement.confine()
        finally:
            self._confined.set()
        if self.confinement.failed:
            return
        hooks = self.confinement.hooks
        namespace = self._namespace
        namespace.update(
            __builtins__=builtins if hooks is None else hooks.builtins(),
            post=self._guest_post,
            recv=self._guest_recv,
            display=self._display.display,
        )
        while not self._stopping:
            job: Job | None = None
            try:
                job = self._jobs.get()
                if job is not None and not job.given_up:
                    job.answers.put(self._answer(job, namespace))
            except BaseException as error:  # raised from outside, too late for the request it was meant for
                if job is not None:
                    job.answers.put(self._raised(error))
        self._loop.close()
        self.confinement.detach()

    def _answer(self, job: Job, namespace: dict[str, Any]) -> Value | Raised:
        self._active = job
        answer: Value | Raised
        try:
            answer = self._evaluate(job.work, namespace)
        except SystemExit as error:
            answer = Value(exit_code=exit_code(error))
            if isinstance(error.code, str):
                self._streams["stderr"].write(f"{error.code}\n")
        except BaseException as error:
            answer = self._raised(error)
        finally:
            self._active = None
            if self.confinement.hooks is not None:
                self.confinement.hooks.flush()
        return answer

    def _evaluate(self, work: Work, namespace: dict[str, Any]) -> Value:
        self._display.begin()
        namespace.setdefault("__name__", f"<{self.name}>")  # a standby thread has no name of its own yet
        namespace["print"] = functools.partial(print, file=self._streams["stdout"])
        if work.kind == "call":
            found = resolve(work.function, namespace) if isinstance(work.function, str) else work.function
            return Value(self._loop.result(found(*work.args, **work.kwargs)))
        if work.kind == "eval":
            return Value(self._loop.evaluate(compile_expression(work.source, work.filename), namespace))
        code, last = compile_cell(work.source, work.filename)
        if code is not None:
            self._loop.evaluate(code, namespace)
        if last is None:
            return Value()
        value = self._loop.evaluate(last, namespace)
        if value is not None:
            namespace["_"] = value  # the host's builtins are not the guest's to change
            self._display.result(value)
        return Value(value)

    def _raised(self, error: BaseException) -> Raised:
        hooks = self.confinement.hooks
        # here: what the broker allowed last is remembered by thread
        record = hooks.observe(error) if hooks is not None else None
        trace = traceback.TracebackException(type(error), error, error.__traceback__, lookup_lines=False)
        failure = wire.Failed(
            id=0,
            type_name=type(error).__qualname__,
            message=str(trace),
            traceback="",
            sequence=None if record is None else record.sequence,
            errno=number_of(error),
            raised_by_guest=raised_by_guest(error),
        )
        return Raised(failure, trace)

    def _guest_recv(self, timeout: float | None = None) -> Any:
        check_seconds("recv: timeout", timeout)
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("recv: no message from the host in time", limit="timeout") from None

    def _guest_post(self, obj: Any) -> None:
        encoded, _ = values.encode(obj)
        self._host_side.do(functools.partial(self.take_message, encoded))
        if self.ending is not None:
            raise SystemExit(str(self.ending))

    def _guest_shown(self, frame: wire.GuestFrame) -> None:
        self._host_side.do(functools.partial(self.take_shown, cast("wire.Shown", frame)))
        if self.ending is not None:
            raise SystemExit(str(self.ending))

    def define(self, descriptions: tuple[Description, ...]) -> None:
        """Let the guest see functions of the host."""
        self.check_open()
        self._namespace.update((one.name, stub(one, self._guest_call)) for one in descriptions)

    def answer_call(self, answer: wire.HostAnswer) -> None:
        """Give the guest what came of its call of a function of the host."""
        if (waiting := self._calls.get(answer.id)) is not None:
            waiting.put(answer)

    def _guest_call(self, name: str, timeout_s: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            arguments, _ = values.encode([list(args), kwargs])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: arguments: {error}") from None
        number, answers = next(self._numbers), queue.SimpleQueue[wire.HostAnswer]()
        self._calls[number] = answers
        try:
            frame = wire.HostCall(id=number, name=name, arguments=arguments)
            if not self._attendant.give(frame):
                self._host_side.tell(functools.partial(self.calls.take, frame))
            answer = self._wait_for(answers, name, timeout_s)
        except BaseException:
            self._calls.pop(number, None)  # first: a thread that takes the call later looks here
            self._host_side.tell(functools.partial(self.calls.give_up, number))
            raise
        finally:
            self._calls.pop(number, None)
        if isinstance(answer, wire.Returned):
            return values.decode(answer.encoded)
        raise error_of(name, answer.type_name, answer.message, answer.errno)

    def start_call(self, call: Callable[[], None]) -> None:
        """Run a call of a function of the host on a thread of the supervisor, which then waits for the guest's next."""
        super().start_call(functools.partial(self._attendant.serve, call))

    def _take_here(self, frame: wire.HostCall) -> None:
        def run(call: Callable[[], None]) -> None:
            self._forget_unless_waited_for(frame.id)
            call()

        self.calls.take(frame, run)
        self._forget_unless_waited_for(frame.id)

    def _forget_unless_waited_for(self, number: int) -> None:
        if number not in self._calls:  # its guest gave it up before it was taken
            self.calls.give_up(number)

    def _wait_for(
        self, answers: queue.SimpleQueue[wire.HostAnswer], name: str, timeout_s: float | None
    ) -> wire.HostAnswer:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _LOOK_UP_S if deadline is None else min(_LOOK_UP_S, deadline - time.monotonic())
            try:
                return answers.get(timeout=max(0.0, left))
            except queue.Empty:  # between two waits, an exception raised from outside comes in
                if self._stopping:
                    raise SystemExit("the sandbox has ended") from None
                if deadline is not None and time.monotonic() >= deadline:
                    raise builtins.TimeoutError(f"{name}: no answer within {timeout_s} s") from None

    def _on_output(self, stream: Stream, data: bytes) -> None:
        allowed, job = self.limits.output_bytes, self._active
        if self.ending is not None or (allowed is not None and self._written > allowed):
            raise SystemExit("the sandbox has ended")
        self._written += len(data)
        if job is not None:
            job.answers.put((stream, data))  # to the thread that waits for the answer, which is not confined
        else:
            self._host_side.do(lambda: self.take_output(stream, data))

    def _on_broker_record(self, record: BrokerRecord) -> None:
        # On a thread that is not confined: audit log, sinks and the kernel's tables are out of the guest's reach.
        self._host_side.do(functools.partial(self.denials.guest, record))

    # -- requests -------------------------------------------------------------------------------------------

    def submit(
        self,
        work: Work,
        timeout: float | None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Result:
        """Run a request on the thread; a timeout raises in the guest at its next bytecode."""
        self.check_caller()
        if threading.current_thread() is self._thread:
            raise SandboxError(f"run in {self.name!r}: called from its own guest", hint="one request at a time")
        if work.argv:
            raise ValueError(
                f"run in {self.name!r}: argv: sys.argv belongs to the whole process. Hint: use process isolation"
            )
        try:
            with self._request, contextlib.closing(guest_input(work.stdin)) as stdin:
                self.check_open()
                if self.state == "running":  # a callback for output asks, in the middle of a request
                    raise SandboxError(f"run in {self.name!r}: a request runs already", hint="one request at a time")
                with self.request(on_stdout, on_stderr):
                    return self._run(Job(work), stdin, timeout)
        except SandboxClosed:
            wait_for_the_end()
            raise

    def _run(self, job: Job, stdin: TextIO, timeout: float | None) -> Result:
        """Give a job to the thread, take its output until its answer, and return what that means, or raise."""
        started, budget = time.perf_counter(), self.budget(timeout)
        try:
            with routed(self._thread.ident or 0, {"stdin": stdin, **self._streams}):
                answer = self._wait(job, None if budget is None else time.monotonic() + budget)
        except BaseException as error:  # Ctrl-C, or a callback for output that raised: no caller reads the answer
            ended = self._interrupted(job) if isinstance(error, KeyboardInterrupt) else None
            if ended is None:
                self.end(f"its request was abandoned: {type(error).__name__}")
            else:
                self.state = "idle"
                if isinstance(ended, Raised):
                    keep_traceback(error, as_kept(_with_trace(ended)))
                self.take_written()
            raise
        return self._conclude(job, answer, budget, timeout, started)

    def _wait(self, job: Job, deadline: float | None) -> Value | Raised | None:
        self._jobs.put(job)
        return self._take(job, deadline)

    def _interrupted(self, job: Job) -> Value | Raised | None:
        """Raise KeyboardInterrupt in the guest, and give it a moment to end its request. None where it did not."""
        job.given_up = True
        if self._active is not job:  # an earlier one runs still
            return None
        self._raise_in_guest(KeyboardInterrupt, job)
        return self._take(job, time.monotonic() + INTERRUPT_GRACE_S)

    def _take(self, job: Job, deadline: float | None) -> Value | Raised | None:
        """Take output until the answer comes. None at the deadline or at the end of the sandbox."""
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                item = job.answers.get(timeout=left)
            except queue.Empty:
                return None
            if not isinstance(item, tuple):
                return item
            self.take_output(*item)
            if self.ending is not None:
                return None

    def _conclude(
        self, job: Job, answer: Value | Raised | None, budget: float | None, timeout: float | None, started: float
    ) -> Result:
        stopped = self._interrupted(job) if answer is None and self.ending is None else None
        self.denials.settle()
        if self.ending is not None:
            error = self.ended_error()
            self.give_output(error)
            raise error
        self.state = "idle"
        if answer is None:
            hint = "native code does not notice: use process isolation, which can kill it"
            late = self.time_limit(budget, timeout, "it was interrupted", "make it do less" if stopped else hint)
            self.give_output(late)
            raise late
        if isinstance(answer, Raised):
            raise self.failure(_with_trace(answer))
        return Result(
            **self.take_written(),
            value=answer.value,
            duration=time.perf_counter() - started,
            denials=self.denials.of_request(),
            exit_code=answer.exit_code,
        )

    def post(self, obj: Any) -> None:
        """Send an object to the guest's `recv`."""
        self.check_open()
        self._inbox.put(obj)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest at its next bytecode."""
        if (job := self._active) is not None:
            self._raise_in_guest(KeyboardInterrupt, job)

    def _raise_in_guest(self, kind: type[BaseException], job: Job) -> None:
        if self._active is job and self._thread.ident is not None:
            _set_async_exception(self._thread.ident, kind)

    # -- the end --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Tell the guest to stop. Native code that never returns keeps the thread: threads cannot be killed."""
        if self.state != "closed":
            self.state = "ended"
        self._stopping = True
        if (job := self._active) is not None:
            job.answers.put(None)
            self._raise_in_guest(SystemExit, job)
        self._jobs.put(None)
        self._attendant.dismiss()

    def wait_stopped(self) -> None:
        """Wait for the thread, but not for one that runs native code without end."""
        self._watchdog.unwatch(self.id)
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(_STOP_TIMEOUT_S)


def _with_trace(answer: Raised) -> wire.Failed:
    return msgspec.structs.replace(answer.failure, traceback="".join(answer.trace.format()))


def _set_async_exception(ident: int, kind: type[BaseException]) -> None:
    import ctypes  # where a guest has to be stopped, and not before

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(kind))


class SandboxThread(SandboxBase[ThreadSession]):
    """One guest on one thread of this process; the same requests as `Sandbox`, a guard rail and not a boundary.

    Values that `exec`, `eval` and `call` return are the guest's own objects. `enforcement` says which limits hold.
    """


__all__ = ["SandboxThread", "ThreadSession"]
